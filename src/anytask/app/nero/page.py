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
    compute = html.Button("Compute the example", id="nero-compute", type="button", className="quiet")
    state = html.Div(id="nero-example-state", role="status", className="running")
    example = html.P(
        "Two networks learn to read the digits of scikit-learn, one from upright digits, one from digits turned in 24 "
        "ways; then both read 300 new digits at 73 angles. It takes some seconds, and downloads nothing."
    )
    links = [
        html.A(words, id=f"nero-{what.split('.')[0]}", className="button", download="")
        for what, words in _DOWNLOADS.items()
    ]
    note = "The report is one HTML file with these views, which opens without this page; it takes some seconds to make."
    return html.Div(
        [
            dcc.Store(id="nero-ready", data=0),
            dcc.Interval(id="nero-tick", interval=_LOOK_EVERY, disabled=True),
            pieces.page(
                "Where does a model fail when its inputs change?",
                "Every input is turned, shifted or flipped in all ways of a group, and the error recorded along the "
                "way. A model that has understood the change draws a flat curve.",
                html.Div(pieces.control("Result", menu, wide=True), className="filters"),
                html.Div(id="nero-message"),
                html.Div(
                    [example, html.Div([compute, state], className="running")],
                    id="nero-example", className="card nero-example", hidden=True,
                ),
                html.Div(
                    [
                        html.P("The views are being made …", className="nero-wait"),  # until the frame covers it
                        html.Iframe(id="nero-frame", title="The linked views of the result", className="nero-frame"),
                        pieces.section("Downloads", html.Div(links, className="downloads"), note=note),
                    ],
                    id="nero-views", className="nero-views", hidden=True,
                ),
            ),
        ],
        className="nero",
    )  # fmt: skip


def register(app: Dash, settings: Settings) -> None:
    """Add the callbacks, the views and the downloads of the page."""
    library = settings.nero

    @app.callback(
        Output("nero-message", "children"),
        Output("nero-example", "hidden"),
        Output("nero-views", "hidden"),
        Output("nero-frame", "src"),
        *[Output(f"nero-{what.split('.')[0]}", "href") for what in _DOWNLOADS],
        Input("nero-source", "value"),
        Input("nero-ready", "data"),
    )
    def open_source(source: str | None, ready: int) -> tuple[Any, ...]:
        id = library.source(source).id
        addresses = [f"/nero/view/{id}", *(f"/nero/download/{id}/{what}" for what in _DOWNLOADS)]
        message, example = opened(library, id)
        shown = message is None and not example
        return message, not example, not shown, *(app.get_relative_path(a) if shown else None for a in addresses)

    @app.callback(
        Output("nero-example-state", "children"),
        Output("nero-compute", "disabled"),
        Output("nero-tick", "disabled"),
        Output("nero-ready", "data"),
        Input("nero-compute", "n_clicks"),
        Input("nero-tick", "n_intervals"),
        State("nero-ready", "data"),
    )
    def look(compute: Any, ticks: Any, ready: int) -> tuple[Any, ...]:
        if ctx.triggered_id == "nero-compute" and compute:
            library.compute_example()
        state, working = progress_of(library)
        done = int(library.has(EXAMPLE))
        return state, working, not working, no_update if done == ready else done

    @app.server.get("/nero/<kind>/<id>", defaults={"what": ""})
    @app.server.get("/nero/<kind>/<id>/<what>")
    def answer(kind: str, id: str, what: str) -> Response:
        if id not in {source.id for source in library.sources}:
            abort(404)
        try:
            if kind == "view":
                return framed(library.page(id, app.get_relative_path(f"/nero/more/{id}")))
            if kind == "more":
                return jsonify(library.more(id, request.args.get("method"), request.args.get("sample", type=int)))
            if kind != "download" or what not in _DOWNLOADS:
                abort(404)
            return download(library, id, what)
        except NotShown as error:
            abort(503, str(error))
        except ValueError as error:
            abort(400, str(error))


PAGE = Page(path="/nero", title="NERO", place=2, layout=layout, register=register)


def opened(library: NeroLibrary, id: str) -> tuple[Any, bool]:
    """Return why a result cannot be shown, if so, and whether it is the example that is still to be computed."""
    try:
        library.get(id)
    except NotShown as error:
        if id == EXAMPLE:
            return None, True
        return pieces.notice(str(error), kind="bad", title="This result cannot be shown"), False
    return None, False


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

    result, kind = library.get(id), what.rsplit(".", 1)[1]
    title = f"NERO: {library.source(id).name}"
    body = render(result, title) if kind == "html" else result_csv(result, what.removesuffix(".csv"))
    response = Response(body, content_type=f"text/{kind}; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="nero-{id}-{what}"'
    return response
