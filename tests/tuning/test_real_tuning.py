"""The whole command on a real language model."""

import json

import pytest
from typer.testing import CliRunner

from anytask.cli import app
from anytask.datasets.text import load_text
from anytask.incontext import Pipeline
from anytask.lm import load_lm
from anytask.models.real import REAL


@pytest.mark.slow
@pytest.mark.skipif(not REAL["smollm2-135m"].is_here, reason="smollm2-135m is not here: `make real` fetches it")
def test_a_prompt_is_tuned_on_a_real_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["reviews", "--lm", "smollm2-135m", "--labels", "14", "--set", "max_k=2", "--report", "r.html"]
    done = CliRunner().invoke(app, ["tune-prompt", *arguments, "--save", "found"])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "found" / "tuning.json").read_text())
    best = next(row for row in told["prompts"] if row["role"] == "best")
    assert told["kind"] == "local" and best["asked"] == 14
    assert any(row["asked"] < 14 for row in told["prompts"])  # losers were dropped
    assert {"chat template"} <= {part for row in told["prompts"] for part in row["prompt"].split(", ")}

    spec = "smollm2-135m?chat_template=true" if told["best"]["chat"] else "smollm2-135m"
    pipeline = Pipeline.load(tmp_path / "found" / "pipeline", lm=load_lm(spec))
    reviews = load_text("reviews")
    asked = [i for i, text in enumerate(reviews.texts) if text not in {demo.input for demo in pipeline.demos_}][:40]
    said = pipeline.predict([reviews.texts[i] for i in asked])
    assert sum(a == reviews.labels[i] for a, i in zip(said, asked)) > 24  # 20 by chance
