"""The catalogue: find a system by what it is for, by its family, its problem, its year."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update

from anytask import catalogue
from anytask.app import layout as pieces
from anytask.app.catalogue.cards import FAMILY_COLORS, card, sheet
from anytask.app.catalogue.search import problem_words
from anytask.app.settings import Page, Settings
from anytask.catalogue import FAMILIES, PROBLEMS, SYSTEMS, Card

YEARS = tuple(range(min(entry.year for entry in SYSTEMS), max(entry.year for entry in SYSTEMS) + 1))

_ORDERS = {"fit": "best fit", "new": "newest first", "name": "name"}


def layout(settings: Settings) -> Any:
    """Return the page."""
    ready = sum(catalogue.state(entry) == "available" for entry in SYSTEMS)
    settings.search.warm_up()
    search = dcc.Input(
        id="search", type="search", debounce=0.25, placeholder="for example: data that keep changing",
        autoComplete="off", className="search", maxLength=200,
    )  # fmt: skip
    states = ["all", "available", "planned"]
    said = {key: f"{key}: {problem_words(key)}" for key in PROBLEMS}
    filters = [
        pieces.control("Family", _dropdown("family", {family: family for family in FAMILIES})),
        pieces.control("Problem", _dropdown("problem", said), wide=True),
        pieces.control("Order", _dropdown("order", _ORDERS, "fit")),
        pieces.choices("State", dcc.RadioItems(states, "all", id="state", inline=True)),
    ]
    how = html.P(id="how", className="note", role="status")
    close = html.Button("Close", id="sheet-close", type="button", className="quiet close")
    times = [html.H2("When the papers appeared", className="small"), html.Div(id="timeline", className="timeline")]
    return pieces.page(
        "What do you want to learn, with what you have?",
        f"{len(SYSTEMS)} published systems for tasks that nobody announced: few labels, shifting data, new tasks every "
        f"week. {ready} of them can be used today.",
        html.Div([pieces.control("Search by meaning or name", search, wide=True), how], className="searching"),
        html.Div(filters, className="filters"),
        html.Section(times, className="times"),
        dcc.Store(id="years", data=[]),
        html.P(id="count", className="count", role="status"),
        html.Ul(id="cards", className="cards"),
        html.Dialog(
            [close, html.Div(id="sheet", className="sheet")], id="dialog", **{"aria-labelledby": "sheet-title"}
        ),
    )


def register(app: Dash, settings: Settings) -> None:
    """Add the callbacks of the page."""

    @app.callback(
        Output("years", "data"),
        Input({"type": "year", "year": ALL}, "n_clicks"),
        State("years", "data"),
        prevent_initial_call=True,
    )
    def choose_year(clicks: Sequence[int | None], chosen: list[int]) -> Any:
        if not isinstance(ctx.triggered_id, dict) or not any(clicks):
            return no_update
        year = ctx.triggered_id["year"]
        return [y for y in chosen if y != year] if year in chosen else sorted([*chosen, year])

    @app.callback(
        Output("cards", "children"),
        Output("timeline", "children"),
        Output("count", "children"),
        Output("how", "children"),
        Input("search", "value"),
        Input("family", "value"),
        Input("problem", "value"),
        Input("state", "value"),
        Input("order", "value"),
        Input("years", "data"),
    )
    def show(
        query: str | None, family: str | None, problem: str | None, state: str, order: str, years: list[int]
    ) -> tuple[Any, ...]:
        found = settings.search.find(str(query or ""))
        fitting = [entry for entry in found.cards if fits(entry, family, problem, state)]
        shown = ordered([entry for entry in fitting if not years or entry.year in years], order, bool(query))
        return (
            [card(entry) for entry in shown],
            timeline(fitting, years),
            _count(shown, found.fits),
            _how(query, found.how),
        )

    @app.callback(Output("sheet", "children"), Input("url", "hash"))
    def open_sheet(fragment: str | None) -> Any:
        try:
            return sheet(catalogue.get((fragment or "").lstrip("#")))
        except KeyError:
            return []

    app.clientside_callback(
        ClientsideFunction("anytask", "showSheet"), Output("dialog", "title"), Input("sheet", "children")
    )


PAGE = Page(path="/", title="Catalogue", place=0, layout=layout, register=register)


def fits(entry: Card, family: str | None, problem: str | None, state: str) -> bool:
    """Whether a system meets the filters; empty ones let everything pass."""
    return (
        (not family or entry.family == family)
        and (not problem or problem in entry.problems)
        and (state not in ("available", "planned") or catalogue.state(entry) == state)
    )


def ordered(cards: Sequence[Card], order: str, searched: bool = False) -> list[Card]:
    """Return the cards in an order: newest first, by name, or best fit first (without a search, available first)."""
    if order == "new":
        return sorted(cards, key=lambda entry: appeared(entry), reverse=True)
    if order == "name":
        return sorted(cards, key=lambda entry: entry.name.lower())
    return list(cards) if searched else sorted(cards, key=lambda entry: catalogue.state(entry) != "available")


def appeared(entry: Card) -> tuple[int, int]:
    """Return year and month of a paper; the month is that of its arXiv number, and 0 without one.

    Examples
    --------
    >>> appeared(catalogue.get("tame"))
    (2022, 10)
    """
    month = int(entry.arxiv[2:4]) if entry.arxiv and entry.arxiv[:4].isdigit() else 0
    return entry.year, month


def timeline(fitting: Sequence[Card], chosen: Sequence[int]) -> list[html.Button]:
    """Return one button per year with a mark per paper, in the order of months; those that don't fit are pale."""
    keys = {entry.key for entry in fitting}
    columns = []
    for year in YEARS:
        papers = sorted((entry for entry in SYSTEMS if entry.year == year), key=appeared)
        here, on = sum(entry.key in keys for entry in papers), year in chosen
        marks = [
            html.Span(
                className="mark" if entry.key in keys else "mark pale", title=f"{entry.name} ({entry.family})",
                style={"backgroundColor": FAMILY_COLORS[entry.family]},
            )
            for entry in papers
        ]  # fmt: skip
        lines = [
            html.Span(marks, className="marks", **{"aria-hidden": "true"}),
            html.Span(str(year), className="year"),
            html.Span(str(here), className="number"),
        ]
        said = {"aria-pressed": str(on).lower(), "aria-label": f"{year}: {here} of {len(papers)} systems"}
        id = {"type": "year", "year": year}
        columns.append(html.Button(lines, id=id, type="button", className="on" if on else "", **said))
    return columns


def _dropdown(name: str, options: Mapping[str, str], value: str | None = None) -> dcc.Dropdown:
    look = {"clearable": value is None, "placeholder": "any", "searchable": len(options) > 15}
    return dcc.Dropdown(id=name, options=pieces.options(options), value=value, **look)


def _count(shown: Sequence[Card], fit: bool) -> str:
    if not shown:
        return "No system fits. Take a filter back, or say it in other words."
    ready = sum(catalogue.state(entry) == "available" for entry in shown)
    systems = "1 system" if len(shown) == 1 else f"{len(shown)} systems"
    if not fit:
        return f"Nothing fits this well. The nearest {systems}:"
    return f"{systems}, {ready} available."


def _how(query: str | None, how: str) -> str:
    if not (query or "").strip():
        return ""
    return "Searched by meaning." if how == "meaning" else "Searched by words."
