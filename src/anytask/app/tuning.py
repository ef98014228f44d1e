"""Prompt tunings, also while they run: the curve of accuracy against tokens, whose points show their prompts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dash import Dash, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from anytask.app import layout as pieces
from anytask.app.settings import Page, Settings
from anytask.tuning.record import CAPTION, curve, front, tunings_of

#: Milliseconds between two looks at the file.
LOOK_EVERY = 2000


def layout(settings: Settings) -> Any:
    """Return the page."""
    which = dcc.Dropdown(id="tuning-which", options=[], clearable=False)
    return pieces.page(
        "Which prompt is good, and cheap?",
        ["Every tuning in ", html.Code(str(settings.answers)), "; one that still runs is followed as it goes."],
        html.Div([pieces.control("Tuning", which, wide=True)], className="filters"),
        html.Div(id="tuning-view"),
        html.Div(html.P("Click on a point to see its prompt.", className="note"), id="tuning-prompt"),
        dcc.Interval(id="tuning-tick", interval=LOOK_EVERY),
        dcc.Store(id="tuning-stamp"),
    )


def register(app: Dash, settings: Settings) -> None:
    """Add the callbacks of the page."""

    @app.callback(
        Output("tuning-which", "options"),
        Output("tuning-which", "value"),
        Output("tuning-view", "children"),
        Output("tuning-stamp", "data"),
        Input("tuning-tick", "n_intervals"),
        Input("tuning-which", "value"),
        State("tuning-stamp", "data"),
    )
    def look(ticks: int | None, key: str | None, stamp: str | None) -> tuple[Any, ...]:
        try:
            found = tunings_of(settings.answers)
        except ValueError as error:
            return [], None, pieces.notice(str(error), kind="bad"), ""
        shown = next((one for one in found if one["key"] == key), found[0] if found else None)
        new = hashlib.sha256(json.dumps([shown, len(found)]).encode()).hexdigest()
        if new == stamp:
            raise PreventUpdate
        named = pieces.options({one["key"]: f"{one['data']}, {one['labels']} labels, {one['lm']}" for one in found})
        return named, shown and shown["key"], view(shown), new

    @app.callback(
        Output("tuning-prompt", "children"),
        Input("tuning-curve", "clickData"),
        State("tuning-which", "value"),
        prevent_initial_call=True,
    )
    def show_prompt(clicked: Any, key: str | None) -> Any:
        return prompt(clicked, next((one for one in tunings_of(settings.answers) if one["key"] == key), None))


def view(state: dict[str, Any] | None) -> Any:
    """Return what is shown of a tuning: the answer so far, the curve, and the best prompt for each length."""
    if state is None:
        return pieces.notice("There is no tuning yet: `anytask tune-prompt texts.jsonl --lm NAME` makes one.")
    running = [] if state["sentences"] else [pieces.badge(f"running, {state['share']:.0%}", "live")]
    if not state["prompts"]:
        return html.Div([*running, pieces.notice("No prompt has been asked yet.")])
    best = [
        [row["prompt"], f"{row['smoothed']:.2f}", f"{row['accuracy']:.0%} of {row['asked']}", f"{row['tokens']:.0f}"]
        for row in front(state["prompts"])
    ]
    drawn = curve(state["prompts"], state["plain"])
    return html.Div([
        *running, *(html.P(sentence) for sentence in state["sentences"]),
        *(pieces.notice(warning, kind="warn") for warning in state["warnings"]),
        pieces.figure(drawn, CAPTION, name="tuning", label="accuracy against tokens per query", id="tuning-curve"),
        pieces.table(["best for its length", "smoothed", "right", "tokens per query"], best, (1, 2, 3)),
        pieces.code(state["command"]),
    ])  # fmt: skip


def prompt(clicked: Any, state: dict[str, Any] | None) -> Any:
    """Return the prompt of the point that was clicked on, as one labelled text was asked."""
    try:
        name = clicked["points"][0]["customdata"][2]
        row = next(one for one in (state or {})["prompts"] if one["prompt"] == name)
    except (TypeError, KeyError, IndexError, StopIteration):
        return no_update
    note = "As one of the labelled texts was asked."
    return pieces.section(row["prompt"], pieces.code(row["example"]), level=3, note=note)


PAGE = Page(path="/tuning", title="Tuning", place=3, layout=layout, register=register)
