"""The pieces that pages are made of: headings, labelled controls, figures with a caption, notices, tables.

Text is always passed as children, never as HTML or Markdown, so that nothing in a data file can become markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dash import dcc, html
from flask import Response


def page(title: str, lead: Any, *parts: Any, kicker: str = "") -> html.Div:
    """Return a page: a heading, one sentence about it, and its parts."""
    head = [html.P(kicker, className="kicker")] if kicker else []
    return html.Div([html.Div([*head, html.H1(title), html.P(lead, className="lead")], className="intro"), *parts])


def section(title: str, *parts: Any, note: Any = None, id: str | None = None, level: int = 2) -> html.Section:
    """Return a section with a heading of the given level (2 or 3), and a note in small type under it."""
    heading = html.H2(title) if level == 2 else html.H3(title)
    named = {"id": id} if id else {}
    return html.Section([heading, *([html.P(note, className="note")] if note else []), *parts], **named)


def control(label: str, component: Any, wide: bool = False) -> html.Div:
    """Return a control with its visible label; the component needs an ``id``, a text or a pattern of Dash."""
    kind = "control wide" if wide else "control"
    if isinstance(component.id, str):
        return html.Div([html.Label(label, htmlFor=component.id, className="label"), component], className=kind)
    mark = "-".join(component.id.values())
    named = {"role": "group", "aria-labelledby": mark}
    return html.Div([html.Span(label, id=mark, className="label"), component], className=kind, **named)


def options(named: Mapping[Any, str]) -> list[Any]:
    """Return the options of a dropdown from values and their words."""
    return [{"value": value, "label": words} for value, words in named.items()]


def pairs(named: Iterable[tuple[str, Any]], kind: str = "facts") -> html.Dl:
    """Return a list of names and what they stand for."""
    return html.Dl([part for name, value in named for part in (html.Dt(name), html.Dd(value))], className=kind)


def fold(summary: Any, *inside: Any) -> html.Details:
    """Return parts that are unfolded by a click on their summary."""
    return html.Details([html.Summary(summary), *inside])


def choices(label: str, component: Any) -> html.Fieldset:
    """Return a group of radio buttons or check boxes under a legend."""
    return html.Fieldset([html.Legend(label, className="label"), component], className="control choices")


def notice(*text: Any, kind: str = "info", title: str | None = None) -> html.Div:
    """Return a message: ``kind`` is "info", "warn" or "bad"."""
    head = [html.Strong(title)] if title else []
    return html.Div(
        [*head, html.P(list(text))], className=f"notice {kind}", role="status" if kind == "info" else "alert"
    )


def badge(text: str, kind: str = "") -> html.Span:
    """Return a word in a pill: ``kind`` is "good", "warn", "bad", "plain" or "live"."""
    return html.Span(text, className=f"badge {kind}".strip())


def figure(drawn: Any, caption: Any, *, name: str, label: str, id: str | None = None) -> html.Figure:
    """Return a Plotly figure on a card, with a caption and a button that saves it as PNG.

    Parameters
    ----------
    drawn : plotly figure
        The figure; its background becomes white, on dark screens too, so that its colours mean the same everywhere.
    caption : str or components
        How to read it.
    name : str
        Name of the PNG file, without ``.png``.
    label : str
        What it shows, in a few words, for those who don't see it.
    id : str, optional
        Identifier of the graph.
    """
    drawn.update_layout(paper_bgcolor="white", plot_bgcolor="white", autosize=True, uirevision="kept")
    named = {"id": id} if id else {}
    graph = dcc.Graph(
        figure=drawn,
        config={
            "displaylogo": False,
            "responsive": True,
            "modeBarButtons": [["toImage"]],
            "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
            "scrollZoom": False,
        },
        style={"height": f"{drawn.layout.height or 420}px"},
        className="graph",
        **named,
    )
    save = html.Button("Save as PNG", type="button", className="quiet save-picture", **{"data-name": name})
    return html.Figure(
        [html.Div(graph, role="img", **{"aria-label": label}), html.Figcaption([html.Span(caption), save])],
        className="card figure",
    )


def table(
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    numeric: Iterable[int] = (),
    label: str = "",
    parts: Sequence[tuple[str, int, bool]] = (),
) -> html.Div:
    """Return a table that scrolls sideways where it is too wide; ``numeric`` columns are set to the right.

    ``parts`` cut the rows into blocks: a heading that may be empty, a number of rows, and whether they are grey.
    """
    right = set(numeric)
    kind = ["n" if i in right else "" for i in range(len(head))]
    top = html.Tr([html.Th(cell, className=kind[i], scope="col") for i, cell in enumerate(head)])
    lines = [html.Tr([html.Td(cell, className=kind[i]) for i, cell in enumerate(row)]) for row in rows]
    bodies = []
    for heading, count, apart in parts or [("", len(lines), False)]:
        over = [html.Tr(html.Th(html.Span(heading), colSpan=len(head), scope="rowgroup"))] if heading else []
        bodies.append(html.Tbody([*over, *lines[:count]], className="apart" if apart else ""))
        lines = lines[count:]
    return html.Div(
        html.Table([html.Thead(top), *bodies]),
        className="scroll", tabIndex="0", role="region", **{"aria-label": label or "table"},
    )  # fmt: skip


def code(text: str) -> html.Div:
    """Return code with a button that copies it."""
    return html.Div(
        [html.Pre(html.Code(text)), html.Button("Copy", type="button", className="quiet copy")], className="code"
    )


def dot(color: str) -> html.Span:
    """Return a dot in the colour that a name has in the figures."""
    return html.Span(className="dot", style={"backgroundColor": color}, **{"aria-hidden": "true"})


def away(text: str, address: str) -> html.A:
    """Return a link that leaves this application, and says so."""
    arrow = html.Span(" ↗", **{"aria-hidden": "true"})
    more = {"target": "_blank", "rel": "noopener noreferrer", "title": "Opens a page on the internet"}
    return html.A([text, arrow], href=address, **more)


def as_file(text: str, name: str, kind: str) -> Response:
    """Return text as a file that the browser saves under this name."""
    response = Response(text, content_type=f"{kind}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
