"""The NERO page: how a model's error varies as its inputs are turned, shifted or flipped, in four linked views.

All samples and one sample, along the whole orbit and at one element: a click in one view moves the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from dash import Dash, Input, Output, Patch, State, ctx, dcc, html, no_update
from flask import Response, abort, request

from anytask.app import layout as pieces
from anytask.app.nero import views
from anytask.app.nero.data import EXAMPLE, NeroLibrary, NotShown, consensus_facts, result_csv
from anytask.app.nero.views import Axes, Drawer, Question
from anytask.app.settings import Settings
from anytask.core.colors import colour_of

logger = logging.getLogger(__name__)

#: Milliseconds between two looks at work in the background, and the width below which panels are stacked.
_LOOK_EVERY, _NARROW = 400, 760
_NONE = "none"
_EMPTY: dict[str, Any] = {"data": [], "layout": {"height": 60}}
_DOWNLOADS = {
    "summary.csv": "Summary (CSV)",
    "samples.csv": "Samples (CSV)",
    "orbit.csv": "Aggregate curves (CSV)",
}

#: Tells the server whether the screen is narrow, now and when that changes.
_WATCH_WIDTH = f"""
function (id) {{
  const query = window.matchMedia("(max-width: {_NARROW}px)");
  if (!window.anytaskNarrow) {{
    window.anytaskNarrow = query;
    query.addEventListener("change", function (event) {{
      if (document.getElementById("nero-views")) {{
        window.dash_clientside.set_props("nero-narrow", {{data: event.matches}});
      }}
    }});
  }}
  return query.matches;
}}
"""


def layout(settings: Settings) -> Any:
    """Return the page."""
    library = settings.nero
    first = library.sources[0].id
    return html.Div(
        [
            dcc.Store(id="nero-narrow"),
            dcc.Store(id="nero-ready", data=0),
            dcc.Store(id="nero-question"),
            dcc.Store(id="nero-sample"),
            dcc.Store(id="nero-element"),
            dcc.Store(id="nero-aggregate-key"),
            dcc.Store(id="nero-samples-key"),
            dcc.Store(id="nero-individual-key"),
            dcc.Interval(id="nero-tick", interval=_LOOK_EVERY, disabled=True),
            pieces.page(
                "Where does a model fail when its inputs change?",
                "Every input is turned, shifted or flipped in all ways of a group, and the error recorded along "
                "the way. A model that has understood the change draws a flat curve.",
                html.Div(
                    [
                        pieces.control(
                            "Result", _menu("nero-source", [(s.id, s.name) for s in library.sources], first), wide=True
                        ),
                        pieces.control("Model", _menu("nero-first")),
                        pieces.control("Second model", _menu("nero-second")),
                        pieces.control("Metric", _menu("nero-metric")),
                        pieces.control("Compared with", _menu("nero-reference")),
                        pieces.control("Samples", _menu("nero-subset")),
                    ],
                    className="filters",
                ),
                html.Div(id="nero-message"),
                _example_panel(),
                html.Div(_views(), id="nero-views", hidden=True),
            ),
        ],
        className="nero",
    )  # fmt: skip


def _menu(id: str, options: Sequence[tuple[str, str]] = (), value: str | None = None) -> dcc.Dropdown:
    return dcc.Dropdown(
        id=id, options=[{"value": key, "label": name} for key, name in options], value=value, clearable=False,
        searchable=False,
    )  # fmt: skip


def _example_panel() -> html.Div:
    return html.Div(
        [
            html.P(
                "Two networks learn to read the digits of scikit-learn, one from upright digits, one from digits "
                "turned in 24 ways; then both read 300 new digits at 73 angles. It takes some seconds, and downloads "
                "nothing."
            ),
            html.Div(
                [
                    html.Button("Compute the example", id="nero-compute", type="button", className="quiet"),
                    html.Div(id="nero-example-state", role="status", className="running"),
                ],
                className="running",
            ),
        ],
        id="nero-example",
        className="card nero-example",
        hidden=True,
    )


def _views() -> list[Any]:
    return [
        html.P(id="nero-headline", className="note", role="status"),
        html.Div(
            [
                pieces.section(
                    "All samples, every element",
                    _view("nero-aggregate", "The mean over the samples for every element. Click one to look at it.",
                          "aggregate plot: the mean of the metric for every element"),
                ),
                pieces.section(
                    "Every sample, whole orbit",
                    html.Div(
                        [
                            pieces.control("Placed by", _menu("nero-method", list(views.METHODS.items())[:4], "pca")),
                            pieces.control("Colour and order", _menu("nero-by", list(views.COLOURS.items()), "mean")),
                        ],
                        className="filters tight",
                    ),
                    _view("nero-samples", "One point per sample, near those with similar orbits. Click one.",
                          "sample map: one point per sample, placed by its orbit"),
                    html.Div(
                        [
                            pieces.control("Walk through the samples in order", _slider("nero-rank"), wide=True),
                            html.Button("Previous", id="nero-previous", type="button", className="quiet"),
                            html.Button("Next", id="nero-next", type="button", className="quiet"),
                        ],
                        className="walk",
                    ),
                    html.P(id="nero-about", className="note", role="status"),
                ),
                pieces.section(
                    "One sample, every element",
                    html.Div(id="nero-failed"),
                    _view("nero-individual", "The orbit of the chosen sample. Click an element to see it.",
                          "individual plot: the metric of one sample for every element"),
                ),
                pieces.section(
                    "One sample, one element",
                    html.Div(
                        [_axis_slider(j) for j in range(views.MOST_AXES)]
                        + [html.P(id="nero-where", className="where", role="status")],
                        className="walk elements",
                    ),
                    _view("nero-detail", "What the models see, and what they answer.",
                          "the transformed input and the outputs of the models"),
                    html.Div(id="nero-facts"),
                ),
            ],
            className="columns",
        ),
        html.Div(id="nero-consensus"),
        pieces.section(
            "Summary",
            html.Div(id="nero-summary"),
            html.Div(
                [
                    *[
                        html.A(words, id=f"nero-{which.split('.')[0]}-csv", className="button", download="")
                        for which, words in _DOWNLOADS.items()
                    ],
                    html.Button("Make the report", id="nero-report", type="button", className="quiet"),
                    html.Div(id="nero-report-state", role="status"),
                ],
                className="downloads",
            ),
            html.P("The report is one HTML file with these views, which opens without this page.", className="note"),
        ),
    ]  # fmt: skip


def _view(id: str, caption: str, label: str) -> html.Div:
    import plotly.graph_objects as go

    return html.Div([pieces.figure(go.Figure(), caption, name=id, label=label, id=id), html.Div(id=f"{id}-notice")])


def _slider(id: str) -> dcc.Input:
    return dcc.Input(id=id, type="range", min=0, max=1, step=1, value=0, className="range")


def _axis_slider(j: int) -> html.Div:
    return html.Div(
        [
            html.Label("", id=f"nero-axis-{j}-name", htmlFor=f"nero-axis-{j}", className="label"),
            _slider(f"nero-axis-{j}"),
        ],
        id=f"nero-axis-{j}-place", className="control wide", hidden=True,
    )  # fmt: skip


# -- callbacks --------------------------------------------------------------------------------------------------------


def register(app: Dash, settings: Settings) -> None:
    """Add the callbacks and the downloads of the page."""
    library = settings.nero
    drawer = Drawer(library.get)
    axes = [f"nero-axis-{j}" for j in range(views.MOST_AXES)]
    app.clientside_callback(_WATCH_WIDTH, Output("nero-narrow", "data"), Input("nero-views", "id"))

    menus = ("nero-first", "nero-second", "nero-metric", "nero-reference", "nero-subset")

    @app.callback(
        *[Output(menu, name) for menu in menus for name in ("options", "value", "disabled")],
        Output("nero-message", "children"),
        Output("nero-example", "hidden"),
        Output("nero-views", "hidden"),
        Input("nero-source", "value"),
        Input("nero-ready", "data"),
        *[State(menu, "value") for menu in menus],
    )
    def open_source(source: str | None, ready: int, *values: Any) -> tuple[Any, ...]:
        return opened(library, source, values)

    @app.callback(
        Output("nero-question", "data"),
        Input("nero-source", "value"),
        Input("nero-ready", "data"),
        *[Input(menu, "value") for menu in menus],
        Input("nero-narrow", "data"),
    )
    def ask(source: str, ready: int, *chosen: Any) -> Any:
        try:
            return views.ask(library.get(source), source, *chosen).as_json()
        except NotShown:
            return None

    @app.callback(
        Output("nero-sample", "data"),
        Output("nero-rank", "value"),
        Output("nero-rank", "max"),
        Output("nero-rank", "min"),
        Output("nero-about", "children"),
        Input("nero-question", "data"),
        Input("nero-by", "value"),
        Input("nero-samples", "clickData"),
        Input("nero-rank", "value"),
        Input("nero-previous", "n_clicks"),
        Input("nero-next", "n_clicks"),
        State("nero-sample", "data"),
    )
    def choose_sample(question: Any, by: str, click: Any, rank: Any, back: Any, on: Any, before: Any) -> Any:
        if question is None:
            return (no_update,) * 5
        asked = Question.from_json(question)
        return chosen_sample(library, asked, by, ctx.triggered_id, click, rank, before)

    @app.callback(
        Output("nero-element", "data"),
        *[Output(axis, name) for axis in axes for name in ("value", "max")],
        *[Output(f"{axis}-name", "children") for axis in axes],
        *[Output(f"{axis}-place", "hidden") for axis in axes],
        Output("nero-where", "children"),
        Input("nero-question", "data"),
        Input("nero-aggregate", "clickData"),
        Input("nero-individual", "clickData"),
        *[Input(axis, "value") for axis in axes],
        State("nero-element", "data"),
    )
    def choose_element(question: Any, aggregate: Any, individual: Any, *rest: Any) -> Any:
        if question is None:
            return (no_update,) * (2 + 4 * len(axes))
        asked, trigger = Question.from_json(question), ctx.triggered_id
        click = {"nero-aggregate": aggregate, "nero-individual": individual}.get(trigger)
        return chosen_element(library, asked, trigger, click, rest[:-1], rest[-1])

    def figure_callback(name: str, inputs: Sequence[Input], keyed: bool = True) -> Callable[[Any], Any]:
        outputs = [Output(name, "figure"), Output(name, "style"), Output(f"{name}-notice", "children")]
        states = []
        if keyed:
            outputs.append(Output(f"{name}-key", "data"))
            states.append(State(f"{name}-key", "data"))
        return app.callback(*outputs, Input("nero-question", "data"), *inputs, *states)

    @figure_callback("nero-aggregate", [Input("nero-element", "data")])
    def draw_aggregate(question: Any, element: Any, key: Any) -> Any:
        asked = _agree(question, element)
        if asked is None:
            return (no_update,) * 4
        return drawn(lambda: drawer.aggregate(asked, element["at"]), _key("aggregate", question), key, library, asked)

    @figure_callback(
        "nero-samples", [Input("nero-method", "value"), Input("nero-by", "value"), Input("nero-sample", "data")]
    )
    def draw_samples(question: Any, method: str, by: str, sample: Any, key: Any) -> Any:
        asked = _agree(question, sample)
        if asked is None:
            return (no_update,) * 4
        new = _key("samples", question, method, by)
        return drawn(lambda: drawer.samples(asked, method, by, sample["at"]), new, key, library, asked)

    @figure_callback("nero-individual", [Input("nero-sample", "data"), Input("nero-element", "data")])
    def draw_individual(question: Any, sample: Any, element: Any, key: Any) -> Any:
        asked = _agree(question, sample, element)
        if asked is None:
            return (no_update,) * 4
        new = _key("individual", question, sample["at"])
        return drawn(lambda: drawer.individual(asked, sample["at"], element["at"]), new, key, library, asked)

    @figure_callback("nero-detail", [Input("nero-sample", "data"), Input("nero-element", "data")], keyed=False)
    def draw_detail(question: Any, sample: Any, element: Any) -> Any:
        asked = _agree(question, sample, element)
        if asked is None:
            return (no_update,) * 3
        return drawn(lambda: drawer.detail(asked, sample["at"], element["at"]), None, None, library, asked)[:3]

    @app.callback(
        Output("nero-facts", "children"),
        Output("nero-failed", "children"),
        Input("nero-question", "data"),
        Input("nero-sample", "data"),
        Input("nero-element", "data"),
    )
    def show_facts(question: Any, sample: Any, element: Any) -> Any:
        asked = _agree(question, sample, element)
        if asked is None:
            return no_update, no_update
        return facts(library, asked, sample["at"], element["at"])

    @app.callback(
        Output("nero-headline", "children"),
        Output("nero-consensus", "children"),
        Output("nero-summary", "children"),
        *[Output(f"nero-{which.split('.')[0]}-csv", "href") for which in _DOWNLOADS],
        Input("nero-question", "data"),
    )
    def show_summary(question: Any) -> Any:
        if question is None:
            return (no_update,) * 6
        asked = Question.from_json(question)
        wanted = urlencode({"metric": asked.metric, "reference": asked.reference})
        links = [app.get_relative_path(f"/nero/download/{asked.source}/{which}?{wanted}") for which in _DOWNLOADS]
        return (*summaries(library, asked), *links)

    @app.callback(
        Output("nero-example-state", "children"),
        Output("nero-compute", "disabled"),
        Output("nero-report-state", "children"),
        Output("nero-report", "disabled"),
        Output("nero-tick", "disabled"),
        Output("nero-ready", "data"),
        Input("nero-compute", "n_clicks"),
        Input("nero-report", "n_clicks"),
        Input("nero-tick", "n_intervals"),
        Input("nero-source", "value"),
        State("nero-ready", "data"),
    )
    def look(compute: Any, report: Any, ticks: Any, source: str, ready: int) -> Any:
        if ctx.triggered_id == "nero-compute" and compute:
            library.compute_example()
        if ctx.triggered_id == "nero-report" and report and library.has(source):
            library.make_report(source)
        shown = background(library, source, app.get_relative_path(f"/nero/download/{source}/report.html"))
        done = int(library.has(EXAMPLE))
        return (*shown, no_update if done == ready else done)

    @app.server.get("/nero/download/<id>/<what>")
    def download_nero(id: str, what: str) -> Response:
        if id not in {source.id for source in library.sources}:
            abort(404)
        try:
            result = library.get(id)
            if what == "report.html":
                job = library.job(f"report:{id}")
                if job is None or job.state != "done":
                    abort(404)
                body, kind = job.outcome, "text/html"
            elif what in _DOWNLOADS:
                asked = views.ask(
                    result, id, metric=request.args.get("metric"), reference=request.args.get("reference")
                )
                body, kind = result_csv(result, what.split(".")[0], asked.metric, asked.reference), "text/csv"
            else:
                abort(404)
        except NotShown as error:
            abort(503, str(error))
        response = Response(body, content_type=f"{kind}; charset=utf-8")
        response.headers["Content-Disposition"] = f'attachment; filename="nero-{id}-{what}"'
        return response


# -- what the callbacks return ----------------------------------------------------------------------------------------


def opened(library: NeroLibrary, source: str | None, values: Sequence[str | None]) -> tuple[Any, ...]:
    """Return options, value and disabled of the five menus, the message, and what is hidden, for a chosen result.

    What was chosen before (``values``) is kept where the result has it too.
    """
    source = library.source(source).id
    try:
        result = library.get(source)
    except NotShown as error:
        closed: tuple[Any, ...] = ([], None, True) * 5
        if source == EXAMPLE:
            return (*closed, None, False, True)
        return (*closed, pieces.notice(str(error), kind="bad", title="This result cannot be shown"), True, True)
    first, second, metric, reference, subset = values
    if second not in (*result.models, _NONE):
        taken = first if first in result.models else result.models[0]
        second = next((name for name in result.models if name != taken), None)
    asked = views.ask(result, source, first, second, metric, reference, subset)
    others = [name for name in result.models if name != asked.models[0]]
    menus = (
        ([(name, name) for name in result.models], asked.models[0]),
        ([(_NONE, "none"), *[(name, name) for name in others]], asked.models[1] if len(asked.models) > 1 else _NONE),
        ([(m.key, m.label) for m in result.metrics.values()], asked.metric),
        ([(r, views.REFERENCES[r]) for r in result.references], asked.reference),
        (views.subsets(result), asked.subset),
    )
    parts: list[Any] = []
    for options, value in menus:
        listed = [{"value": key, "label": str(name)} for key, name in options]
        parts += [listed, value, len(listed) < 2]
    return (*parts, _about_result(result), True, False)


def _about_result(result: Any) -> Any:
    """What to know of a result before one looks at it: failures, and what cannot be shown."""
    found = []
    if result.failures:
        lines = [
            html.Li(f"{f.model}, sample {f.sample}{f' at {f.element}' if f.element else ''}: {f.error}")
            for f in result.failures[:50]
        ]
        more = [html.Li(f"and {len(result.failures) - 50} more")] if len(result.failures) > 50 else []
        count = len({(f.model, f.sample) for f in result.failures})
        found.append(
            html.Div(
                html.Details(
                    [
                        html.Summary(
                            f"{count} {'sample' if count == 1 else 'samples'} could not be evaluated, and "
                            f"{'is' if count == 1 else 'are'} left out."
                        ),
                        html.Ul([*lines, *more]),
                    ]
                ),
                className="notice warn",
                role="status",
            )
        )
    if "truth" not in result.references:
        found.append(
            pieces.notice(
                "Without labels, each model is compared with its own consensus over the orbit. A consensus can be "
                "wrong with confidence: see how much of the orbit agrees with it."
            )
        )
    return found


def chosen_sample(
    library: NeroLibrary, asked: Question, by: str, trigger: str | None, click: Any, rank: Any, before: Any
) -> tuple[Any, ...]:
    """Return the chosen sample, its place on the slider, the slider's ends, and a sentence about it."""
    result = library.get(asked.source)
    order = views.order(result, asked, by)
    if not len(order):
        return no_update, 1, 1, 1, "No sample belongs to this choice."
    same = before is not None and before["source"] == asked.source and before["at"] < len(result)
    sample = before["at"] if same else views.most_varied(result, asked)
    places = {int(i): k for k, i in enumerate(order)}
    clicked = _custom(click) if trigger == "nero-samples" else None
    if clicked is not None and 0 <= clicked < len(result):
        sample = clicked
    elif trigger in ("nero-rank", "nero-previous", "nero-next"):
        here = places.get(sample, 0)
        step = {"nero-previous": here - 1, "nero-next": here + 1}.get(trigger)
        place = int(rank or 1) - 1 if step is None else step
        sample = int(order[min(max(place, 0), len(order) - 1)])
    elif sample not in places:
        sample = views.most_varied(result, asked)
    place = places.get(sample, 0) + 1
    moved = {"source": asked.source, "at": sample}
    about = views.about_sample(result, asked, sample, by)
    return no_update if moved == before else moved, place, len(order), 1, about


def chosen_element(
    library: NeroLibrary, asked: Question, trigger: str | None, click: Any, positions: Sequence[Any], before: Any
) -> tuple[Any, ...]:
    """Return the chosen element, and for every slider its value, end, name and whether it is hidden; then its label."""
    result = library.get(asked.source)
    axes = Axes.of(result.group)
    same = before is not None and before["source"] == asked.source and before["at"] < len(result.group)
    element = before["at"] if same else result.element()
    clicked = _custom(click)
    if clicked is not None:
        element = clicked if 0 <= clicked < len(result.group) else element
    elif trigger is not None and trigger.startswith("nero-axis-") and same:
        element = axes.element(positions)
    place = axes.positions(element)
    sliders: list[Any] = []
    for j in range(views.MOST_AXES):
        sliders += [place[j], len(axes.values[j]) - 1] if j < len(place) else [0, 1]
    names = [*axes.names, *[""] * (views.MOST_AXES - len(axes.names))]
    hidden = [j >= len(axes.names) or len(axes.values[j]) < 2 for j in range(views.MOST_AXES)]
    moved = {"source": asked.source, "at": element}
    where = [html.Strong(result.group.labels[element]), f", element {element + 1} of {len(result.group)}"]
    return (no_update if moved == before else moved, *sliders, *names, *hidden, where)


def drawn(
    draw: Callable[[], dict[str, Any]], key: str | None, before: str | None, library: NeroLibrary, asked: Question
) -> tuple[Any, Any, Any, Any]:
    """Return figure, style, notice and key of a view.

    Where the browser shows the figure of this key already, only the traces and shapes that mark an element or a sample
    are sent. A figure that cannot be drawn becomes a notice, and the other views go on.
    """
    try:
        figure = draw()
    except Exception as error:
        if not isinstance(error, (NotShown, ValueError, ImportError)):
            logger.exception("a view of the NERO page failed")
        return _EMPTY, {"display": "none"}, pieces.notice(_why_not(error, library, asked), kind="warn"), None
    height = {"height": f"{figure['layout'].get('height', 420)}px"}
    if key is None or key != before or library.get(asked.source).group.layout == "polar-grid":
        return figure, height, None, key
    patch = Patch()
    for k, trace in views.markers(figure).items():
        patch["data"][k] = trace
    if "shapes" in figure["layout"]:
        patch["layout"]["shapes"] = figure["layout"]["shapes"]
    return patch, no_update, no_update, no_update


def _why_not(error: Exception, library: NeroLibrary, asked: Question) -> str:
    if library.get(asked.source).X is None:
        return "This view needs the inputs, and they were not saved with the result."
    if "outputs were not kept" in str(error):
        return "This view needs the outputs of the models, and they were not kept with the result."
    return f"This view cannot be drawn ({error})."


def facts(library: NeroLibrary, asked: Question, sample: int, element: int) -> tuple[Any, Any]:
    """Return the table about a sample under an element, and notices of models that failed on the sample."""
    result = library.get(asked.source)
    failed = [pieces.notice(text, kind="warn") for text in views.failures_here(result, asked, sample)]
    try:
        rows = views.about_element(result, asked, sample, element)
    except (ValueError, TypeError):
        return None, failed  # the view itself says that inputs or outputs are missing
    head = ["", *[_model(result, name) for name in asked.models]]
    return pieces.table(head, [[name, *cells] for name, cells in rows], label="the sample under this element"), failed


def summaries(library: NeroLibrary, asked: Question) -> tuple[Any, Any, Any]:
    """Return the sentence on top, the section about the consensus, and the summary table."""
    result = library.get(asked.source)
    chosen = views.rows(result, asked)
    return views.headline(result, asked), _consensus(result, asked, chosen), _summary(result, asked, chosen)


def _consensus(result: Any, asked: Question, chosen: Any) -> Any:
    if "consensus" not in result.references:
        return None
    names = {
        "agreement": "orbit that agrees with it", "coverage": "orbit with an answer", "residual": "residual",
        "correct": "is the real label", "error": "", "correlation": "curves correlate",
    }  # fmt: skip
    rows, kept, warned = [], [], []
    table = {model: consensus_facts(result, model, chosen) for model in asked.models}
    for model, mine in table.items():
        mine["correlation"] = views.consensus_curve_correlation(result, asked, model)
        if mine.get("error_name"):
            names["error"] = f"{mine['error_name']} against the real labels"
        agreement = mine.get("agreement")
        if agreement is not None and agreement < 0.7:
            warned.append(f"{model} ({views.percent(agreement)})")
    kept = [key for key in names if any(mine.get(key) is not None for mine in table.values())]
    if all(mine.get("coverage") in (None, 1.0) for mine in table.values()):
        kept = [key for key in kept if key != "coverage"]
    shares = ("agreement", "coverage", "correct")
    for model, mine in table.items():
        cells = [(views.percent if key in shares else views.number)(mine.get(key)) for key in kept]
        rows.append([_model(result, model), *cells])
    head = ["", *[names[k] for k in kept]]
    parts = [pieces.table(head, rows, range(1, len(head)), label="the consensus of each model")]
    if warned:
        whose = " and of ".join(warned)
        text = f"Much of the orbit disagrees with the consensus of {whose}: don't take it for the truth."
        parts.insert(0, pieces.notice(text, kind="warn"))
    return pieces.section(
        "Consensus",
        *parts,
        note="The outputs over the orbit, brought back and averaged: what a model says on the whole, which takes the "
        "place of labels where there are none. Residual: mean distance of the outputs from it. Curves correlate: how "
        "far the aggregate curve against the consensus runs like the one against the ground truth.",
    )


def _summary(result: Any, asked: Question, chosen: Any) -> Any:
    columns = {
        "identity": "unchanged inputs", "mean": "mean over the orbit", "worst": "worst element", "gap": "gap",
        "sample_std": "spread along one orbit", "sample_gap": "gap along one orbit",
    }  # fmt: skip
    if not len(chosen):
        return pieces.notice("No sample belongs to this choice.")
    frame = result.summary(subset=chosen)
    rows = []
    for _, row in frame.iterrows():
        if row["model"] in asked.models and row["reference"] == asked.reference:
            metric = result.metrics[row["metric"]]
            arrow = "↑" if metric.higher_is_better else "↓"
            cells = [views.number(row[key]) for key in columns]
            rows.append([_model(result, row["model"]), f"{metric.label} {arrow}", *cells])
    places = [metric.label for metric in result.metrics.values()]
    rows.sort(key=lambda row: places.index(row[1][:-2]))
    head = ["model", f"metric, against {views.REFERENCES[asked.reference]}", *columns.values()]
    return pieces.table(head, rows, range(2, len(head)), label="summary of the shown models")


def background(library: NeroLibrary, source: str, link: str) -> tuple[Any, bool, Any, bool, bool]:
    """Return how the example and the report are getting on, which buttons are off, and whether to stop looking."""
    example, report = library.job(EXAMPLE), library.job(f"report:{source}")
    example_state: Any = None
    if example is not None and example.state == "running":
        share = f"{100 * example.share:.0f}"
        example_state = [html.Progress(value=share, max="100", **{"aria-label": "progress"}), html.Span(f"{share} %")]
    elif example is not None and example.state == "failed":
        example_state = pieces.notice(f"The example could not be computed ({example.error}).", kind="bad")
    report_state: Any = None
    if report is not None:
        report_state = {
            "running": html.Span("Writing the report …"),
            "done": html.A("Save the report (HTML)", href=link, className="button", download=""),
            "failed": pieces.notice(f"The report could not be written ({report.error}).", kind="bad"),
        }[report.state]
    working = [job is not None and job.state == "running" for job in (example, report)]
    return example_state, working[0], report_state, working[1], not any(working)


# -- small steps ------------------------------------------------------------------------------------------------------


def _agree(question: Any, *chosen: Any) -> Question | None:
    """Return the question once the chosen sample and element are those of its result; they follow one another."""
    if question is None or any(one is None or one["source"] != question["source"] for one in chosen):
        return None
    return Question.from_json(question)


def _key(view: str, question: Any, *more: Any) -> str:
    return repr((view, sorted(question.items()), more))


def _custom(click: Any) -> int | None:
    """Return the index that a clicked point carries."""
    points = (click or {}).get("points") or [{}]
    value = points[0].get("customdata")
    if isinstance(value, list):
        value = value[0] if value else None
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _model(result: Any, name: str) -> Any:
    return html.Span([pieces.dot(colour_of(name, result.models)), name])
