"""The page of prompt tunings: the curve, what is said of it, and the prompt of a point that was clicked on."""

import json

import pytest
from dash import no_update

from anytask.app import make_app
from anytask.app.tuning import prompt, view
from anytask.tuning.record import TuningRecord

ROWS = [
    {"prompt": name, "tokens": tokens, "smoothed": smoothed, "accuracy": smoothed, "asked": 8, "role": role,
     "example": f"Input: {name}\nLabel:"}
    for name, tokens, smoothed, role in (("short", 9.0, 0.5, "tried"), ("good", 40.0, 0.9, "best"),
                                         ("long", 90.0, 0.7, "tried"))
]  # fmt: skip
ENDED = {
    "key": "k", "data": "mine", "labels": 16, "lm": "some", "command": "anytask tune-prompt mine", "prompts": ROWS,
    "plain": {"zero-shot": 0.4}, "sentences": ["Ask with good."], "warnings": ["Mind <b>this</b>."], "share": 1.0,
}  # fmt: skip
RUNNING = ENDED | {"sentences": [], "warnings": [], "plain": {}, "share": 0.25}


@pytest.fixture
def client(tmp_path):
    app = make_app(tmp_path / "none.sqlite", meaning=False, answers=tmp_path / "answers.sqlite")
    return app.server.test_client(), tmp_path / "answers.sqlite"


def asked(client, output, inputs, state):
    names = output.strip(".").split("...")
    outputs = [dict(zip(("id", "property"), name.split("."))) for name in names]
    body = {
        "output": output, "outputs": outputs if len(outputs) > 1 else outputs[0], "inputs": inputs, "state": state,
        "changedPropIds": [f"{inputs[0]['id']}.{inputs[0]['property']}"],
    }  # fmt: skip
    return client.post("/_dash-update-component", json=body, headers={"Host": "127.0.0.1"})


def look(client, key=None, stamp=None):
    output = "..tuning-which.options...tuning-which.value...tuning-view.children...tuning-stamp.data.."
    inputs = [{"id": "tuning-tick", "property": "n_intervals", "value": 1},
              {"id": "tuning-which", "property": "value", "value": key}]  # fmt: skip
    return asked(client, output, inputs, [{"id": "tuning-stamp", "property": "data", "value": stamp}])


def test_the_page_follows_the_file_and_is_drawn_anew_only_where_that_changed(client):
    web, path = client
    assert "There is no tuning yet" in look(web).get_data(as_text=True)
    TuningRecord(path).put("k", {name: value for name, value in RUNNING.items() if name != "key"})
    running = look(web)
    told = running.get_json()["response"]
    assert "running, 25%" in json.dumps(told) and told["tuning-which"]["value"] == "k"
    assert look(web, "k", told["tuning-stamp"]["data"]).status_code == 204  # nothing new
    TuningRecord(path).put("k", {name: value for name, value in ENDED.items() if name != "key"})
    assert "Ask with good." in look(web, "k", told["tuning-stamp"]["data"]).get_data(as_text=True)


def test_what_ended_is_shown_with_its_answer_its_warnings_and_the_best_for_each_length():
    shown = json.dumps(view(ENDED).to_plotly_json(), default=lambda part: part.to_plotly_json())
    assert "Ask with good." in shown and "Mind <b>this</b>." in shown and "running" not in shown
    assert "anytask tune-prompt mine" in shown and "zero-shot" in shown


def test_a_click_on_a_point_shows_its_prompt():
    click = {"points": [{"customdata": [0.9, 8, "good"]}]}
    shown = json.dumps(prompt(click, ENDED).to_plotly_json(), default=lambda part: part.to_plotly_json())
    assert "Input: good\\nLabel:" in shown
    for wrong in (None, {}, {"points": []}, {"points": [{"customdata": [1, 2, "none"]}]}):
        assert prompt(wrong, ENDED) is no_update
    assert prompt(click, None) is no_update


def test_a_file_of_another_program_is_said(client):
    web, path = client
    path.write_text("no database at all, but long enough to be read as the header of one")
    assert "cannot be used" in look(web).get_data(as_text=True)
