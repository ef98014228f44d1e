"""The results: every comparison of a store, also while it runs, and two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

from dash import ALL, MATCH, Dash, Input, Output, State, ctx, dcc, html, no_update
from flask import Response, abort

from anytask.app import layout as pieces
from anytask.app.results.data import Overview, Snapshot, Unreadable, ranking_csv, runs_csv
from anytask.app.results.panel import STATES, beside, cost_figure, file_name, panel, runs_table
from anytask.app.results.panel import view as one_view
from anytask.app.settings import Page, Settings

#: Milliseconds between two looks at the store.
LOOK_EVERY = 2000


def layout(settings: Settings) -> Any:
    """Return the page."""
    words = dcc.Input(
        id="results-text", type="search", debounce=0.25, className="search", autoComplete="off", maxLength=200
    )
    states = pieces.options({key: said for key, (said, _) in STATES.items() if key != "stopping"})
    state = dcc.Dropdown(id="results-state", placeholder="any", searchable=False, options=states)
    other = dcc.Dropdown(id="results-with", placeholder="nothing", options=[])
    return pieces.page(
        "Who does best, by how much, at what cost?",
        ["Every comparison in ", html.Code(str(settings.store)), "; what still runs is followed as it goes."],
        html.Div(
            [
                pieces.control("Data or problem contains", words, wide=True),
                pieces.control("State", state),
                pieces.control("Beside it", other, wide=True),
            ],
            className="filters",
        ),
        html.Div(id="results-message", role="status"),
        html.Ul(id="comparisons", className="comparisons"),
        html.Div(id="stop-message", role="status"),
        html.Div(html.P("Reading the store ...", className="note"), id="detail"),
        dcc.Interval(id="tick", interval=LOOK_EVERY),
        dcc.Store(id="token"),
        dcc.Store(id="shown"),
    )


def register(app: Dash, settings: Settings) -> None:
    """Add the callbacks and the downloads of the page."""
    view = settings.view

    @app.callback(Output("token", "data"), Input("tick", "n_intervals"), State("token", "data"))
    def look(ticks: int | None, token: str | None) -> Any:
        found = _token(settings)
        return no_update if found == token else found

    @app.callback(
        Output("comparisons", "children"),
        Output("results-with", "options"),
        Output("results-with", "value"),
        Output("results-message", "children"),
        Input("token", "data"),
        Input("results-text", "value"),
        Input("results-state", "value"),
        Input("url", "search"),
    )
    def show_list(token: str | None, text: str | None, state: str | None, search: str | None) -> tuple[Any, ...]:
        try:
            snapshot = view.snapshot()
        except Unreadable as error:
            return [], [], None, _unreadable(error, settings)
        one, other = chosen(snapshot, search)
        shown = [item for item in snapshot.overviews if matches(item, text, state)]
        options = pieces.options({i.id: f"{i.title}, {_when(i)}" for i in snapshot.overviews if one and i is not one})
        message = None
        if not snapshot.overviews:
            message = _empty(settings)
        elif not shown:
            message = pieces.notice("No comparison fits these filters.")
        return (
            [_item(item, item is one or item is other) for item in shown],
            options,
            other.id if other else None,
            message,
        )

    @app.callback(
        Output("url", "search"), Input("results-with", "value"), State("url", "search"), prevent_initial_call=True
    )
    def put_beside(with_id: str | None, search: str | None) -> Any:
        if _asked(search).get("with") == with_id:
            return no_update
        try:
            one, _ = chosen(view.snapshot(), search)
        except Unreadable:
            return no_update
        return _search(one.id if one else None, with_id)

    @app.callback(
        Output("detail", "children"),
        Output("shown", "data"),
        Input("token", "data"),
        Input("url", "search"),
        State("shown", "data"),
    )
    def show_detail(token: str | None, search: str | None, shown: str | None) -> tuple[Any, Any]:
        try:
            snapshot = view.snapshot()
            both = [overview for overview in chosen(snapshot, search) if overview is not None]
            stamp = json.dumps([[o.id, o.state, o.done, o.failed, o.total] for o in both])
            if stamp == shown:
                return no_update, no_update
            loaded = [view.load(overview) for overview in both]
        except Unreadable as error:
            # The list says what is wrong; what was read before stays on the page while the store is only locked.
            return (no_update, no_update) if "again" in str(error) else ([], "")
        if not both:
            return [], stamp
        return panel(both[0], loaded[0]) if len(both) == 1 else beside(both, loaded), stamp

    @app.callback(
        Output("stop-message", "children"),
        Output("token", "data", allow_duplicate=True),
        Input({"type": "stop", "id": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    def stop(clicks: Sequence[int | None]) -> tuple[Any, Any]:
        if not isinstance(ctx.triggered_id, dict) or not any(clicks):
            return no_update, no_update
        try:
            asked = view.request_stop(ctx.triggered_id["id"])
        except Unreadable as error:
            return pieces.notice(f"It could not be asked to stop. {error}", kind="bad"), no_update
        if not asked:
            return pieces.notice("It had ended already."), _token(settings)
        text = "Asked to stop. Runs that have begun end first, and are kept; no other starts."
        return pieces.notice(text), _token(settings)

    @app.callback(
        Output({"type": "view-content", "id": MATCH}, "children"),
        Input({"type": "view", "id": MATCH}, "value"),
        State({"type": "view", "id": MATCH}, "id"),
    )
    def show_view(name: str, place: dict[str, str]) -> Any:
        return of(place["id"], lambda overview, comparison: one_view(overview, comparison, name), name == "curves")

    @app.callback(
        Output({"type": "runs", "id": MATCH}, "children"),
        Input({"type": "runs-entrant", "id": MATCH}, "value"),
        Input({"type": "runs-status", "id": MATCH}, "value"),
        Input({"type": "runs-order", "id": MATCH}, "value"),
        Input({"type": "runs-page", "id": MATCH}, "value"),
        State({"type": "runs-page", "id": MATCH}, "id"),
    )
    def show_runs(entrant: str | None, status: str | None, order: str, page: int | None, place: dict[str, str]) -> Any:
        return of(place["id"], lambda _, comparison: runs_table(comparison, entrant, status, order, page or 1))

    @app.callback(
        Output({"type": "cost", "id": MATCH}, "children"),
        Input({"type": "cost-by", "id": MATCH}, "value"),
        State({"type": "cost-by", "id": MATCH}, "id"),
        prevent_initial_call=True,
    )
    def show_cost(by: str, place: dict[str, str]) -> Any:
        return of(place["id"], lambda _, comparison: cost_figure(comparison, by))

    def of(id: str, make: Callable[[Overview, Any], Any], details: bool = False) -> Any:
        """Return what is made of a comparison; what stands there stays while the store cannot be read."""
        try:
            overview = view.snapshot().get(id)
            return no_update if overview is None else make(overview, view.load(overview, details).comparison)
        except Unreadable:
            return no_update

    @app.server.get("/download/<id>/<what>")
    def download(id: str, what: str) -> Response:
        from anytask.bench.report import render

        makers = {"ranking.csv": ranking_csv, "runs.csv": runs_csv, "report.html": render}
        try:
            overview = view.snapshot().get(id)
            if overview is None or what not in makers:
                abort(404)
            text = makers[what](view.load(overview, details=what == "report.html").comparison)
        except Unreadable as error:
            abort(503, str(error))
        return pieces.as_file(text, f"{file_name(overview)}-{what}", f"text/{what.split('.')[1]}")


PAGE = Page(path="/results", title="Results", place=1, layout=layout, register=register)


def chosen(snapshot: Snapshot, search: str | None) -> tuple[Overview | None, Overview | None]:
    """Return the comparisons that an address asks for, ``?c=ID&with=ID``; the latest one where it asks for none."""
    first = snapshot.get(_asked(search).get("c")) or next(iter(snapshot.overviews), None)
    second = snapshot.get(_asked(search).get("with"))
    return first, None if second is first else second


def matches(overview: Overview, text: str | None, state: str | None) -> bool:
    """Whether a comparison meets the filters of the list."""
    words = (text or "").lower().split()
    names = " ".join(entrant["name"] for entrant in overview.record.body["entrants"])
    about = f"{overview.title} {overview.record.problem} {names}".lower()
    shown = "running" if overview.state == "stopping" else overview.state
    return all(word in about for word in words) and (not state or shown == state)


def _item(overview: Overview, here: bool) -> html.Li:
    entrants, seeds = len(overview.record.body["entrants"]), len(overview.record.body["seeds"])
    facts = f"{_when(overview)} · {entrants} entrants × {seeds} {'seed' if seeds == 1 else 'seeds'}"
    facts += " · runs without a recorded comparison" if overview.loose else ""
    marks: list[Any] = [pieces.badge(*STATES[overview.state])]
    if overview.done < overview.total:
        marks.append(html.Span(f"{overview.done} of {overview.total} runs", className="small"))
    if overview.failed:
        marks.append(pieces.badge(f"{overview.failed} failed", "bad"))
    lines = [html.Strong(overview.title, className="name"), html.Span(facts, className="small")]
    link = dcc.Link(
        [*lines, html.Span(marks, className="marks")], href=f"/results{_search(overview.id, None)}",
        className="card comparison here" if here else "card comparison",
    )  # fmt: skip
    return html.Li(link, key=overview.id)


def _asked(search: str | None) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs((search or "").lstrip("?")).items()}


def _search(one: str | None, other: str | None) -> str:
    wanted = {name: value for name, value in (("c", one), ("with", other)) if value}
    return f"?{urlencode(wanted)}" if wanted else ""


def _when(overview: Overview) -> str:
    return overview.record.started[:16].replace("T", " ")


def _token(settings: Settings) -> str:
    """What differs once anything on the page would: the store's state, and who has fallen silent."""
    try:
        snapshot = settings.view.snapshot()
    except Unreadable as error:
        return str(error)
    return json.dumps([snapshot.state, [overview.state for overview in snapshot.overviews]], default=str)


def _empty(settings: Settings) -> Any:
    return pieces.notice(
        "No comparison has used this store yet. This one takes a minute, and appears here while it runs:",
        html.Code(f"anytask compare task-stream --data digits --systems prd --seeds 2 --store {settings.store}"),
        title="Nothing here yet",
    )


def _unreadable(error: Unreadable, settings: Settings) -> Any:
    if "There is no store" in str(error) or "is empty" in str(error):
        return html.Div([pieces.notice(str(error)), _empty(settings)])
    return pieces.notice(str(error), kind="bad", title="The store cannot be read")
