"""The NERO page: how a model's error varies as its inputs are turned, shifted or flipped, in four linked views.

The views are the page of :mod:`anytask.evaluate.nero.report`, the same as in a report's file, in a frame; around it are
the choice of a result, the example, and the downloads.
"""

from __future__ import annotations

from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html, no_update
from flask import Response, abort, jsonify, request

from anytask.app import layout as pieces
from anytask.app.nero.data import EXAMPLE, NeroLibrary, NotShown, result_csv
from anytask.app.settings import Page, Settings

#: Milliseconds between two looks at the example while it is computed.
_LOOK_EVERY = 400
_DOWNLOADS = {
    "summary.csv": "Summary (CSV)", "samples.csv": "Samples (CSV)", "orbit.csv": "Aggregate curves (CSV)",
    "report.html": "Report (HTML)",
}  # fmt: skip


def layout(settings: Settings) -> Any:
    """Return the page."""
    sources = settings.nero.sources
    menu = dcc.Dropdown(
        id="nero-source", options=[{"value": s.id, "label": s.name} for s in sources], value=sources[0].id,
        clearable=False, searchable=False,
    )  # fmt: skip
    return pieces.page(
        "Where does a model fail when its inputs change?",
        "Every input is turned, shifted or flipped in all ways of a group, and the error recorded along the way. A "
        "model that has understood the change draws a flat curve.",
        dcc.Store(id="nero-ready"),
        html.Div(pieces.control("Result", menu, wide=True), className="filters"),
        html.Div(id="nero-body"),
    )


def register(app: Dash, settings: Settings) -> None:
    """Add the callbacks, the views and the downloads of the page."""
    library = settings.nero

    @app.callback(Output("nero-body", "children"), Input("nero-source", "value"), Input("nero-ready", "data"))
    def show(source: str | None, ready: bool | None) -> Any:
        return body(library, library.source(source).id, app.get_relative_path("/nero"))

    @app.callback(
        Output("nero-example-state", "children"),
        Output("nero-compute", "disabled"),
        Output("nero-tick", "disabled"),
        Output("nero-ready", "data"),
        Input("nero-compute", "n_clicks"),
        Input("nero-tick", "n_intervals"),
        State("nero-ready", "data"),
    )
    def look(compute: Any, ticks: Any, ready: bool | None) -> tuple[Any, ...]:
        if ctx.triggered_id == "nero-compute" and compute:
            library.compute_example()
        state, working = progress_of(library)
        done = not working and not state and library.example is not None
        return state, working, not working, True if done and not ready else no_update

    @app.server.get("/nero/<kind>/<id>", defaults={"what": ""})
    @app.server.get("/nero/<kind>/<id>/<what>")
    def answer(kind: str, id: str, what: str) -> Response:
        known = kind in ("view", "more") or (kind == "download" and what in _DOWNLOADS)
        if not known or id not in {source.id for source in library.sources}:
            abort(404)
        try:
            if kind == "view":
                return framed(library.page(id, app.get_relative_path(f"/nero/more/{id}")))
            if kind == "more":
                return jsonify(library.more(id, request.args.get("method"), request.args.get("sample", type=int)))
            return download(library, id, what)
        except NotShown as error:
            abort(503, str(error))
        except ValueError as error:
            abort(400, str(error))


PAGE = Page(path="/nero", title="NERO", place=2, layout=layout, register=register)


def body(library: NeroLibrary, id: str, address: str) -> Any:
    """Return the views of a result and its downloads; or why it cannot be shown; or how to compute the example."""
    try:
        library.get(id)
    except NotShown as error:
        if id != EXAMPLE:
            return pieces.notice(str(error), kind="bad", title="This result cannot be shown")
        words = (
            "Two networks learn to read the digits of scikit-learn, one from upright digits, one from digits turned in "
            "24 ways; then both read 300 new digits at 73 angles. It takes some seconds, and downloads nothing."
        )
        compute = html.Button("Compute the example", id="nero-compute", type="button", className="quiet")
        state = html.Div(id="nero-example-state", role="status", className="running")
        tick = dcc.Interval(id="nero-tick", interval=_LOOK_EVERY, disabled=True)
        return html.Div(
            [html.P(words), html.Div([compute, state, tick], className="running")], className="card example"
        )
    links = [
        html.A(words, id=f"nero-{what.split('.')[0]}", className="button", download="",
               href=f"{address}/download/{id}/{what}")
        for what, words in _DOWNLOADS.items()
    ]  # fmt: skip
    note = "The report is one HTML file with these views, which opens without this page; it takes some seconds to make."
    frame = {"src": f"{address}/view/{id}", "title": "The linked views of the result"}
    return html.Div(
        [
            html.P("The views are being made …", className="nero-wait"),  # until the frame covers it
            html.Iframe(id="nero-frame", className="nero-frame", **frame),
            pieces.section("Downloads", html.Div(links, className="downloads"), note=note),
        ],
        id="nero-views", className="nero-views",
    )  # fmt: skip


def progress_of(library: NeroLibrary) -> tuple[Any, bool]:
    """Return how the example is getting on, and whether it is being computed."""
    job = library.example
    if job is not None and job.error:
        return pieces.notice(f"The example could not be computed ({job.error}).", kind="bad"), False
    if job is None or not job.is_alive():
        return None, False
    share = f"{100 * job.share:.0f}"
    return [html.Progress(value=share, max="100", **{"aria-label": "progress"}), html.Span(f"{share} %")], True


def framed(page: str) -> Response:
    """Return the linked views, which run their own script, and may be in a frame of this application alone."""
    from anytask.evaluate.nero.report import POLICY

    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = f"{POLICY}; connect-src 'self'; frame-ancestors 'self'"
    return response


def download(library: NeroLibrary, id: str, what: str) -> Response:
    """Return a table or the report of a result as a file."""
    from anytask.evaluate.nero.report import render

    result, (name, kind) = library.get(id), what.split(".")
    text = render(result, f"NERO: {library.source(id).name}") if kind == "html" else result_csv(result, name)
    return pieces.as_file(text, f"nero-{id}-{what}", f"text/{kind}")
