"""What a tuning hands over: a prompt to paste, a pipeline to load, a request for an endpoint, the command, a report.

``tuning`` is an :class:`anytask.tuning.Tuning` everywhere.
"""

from __future__ import annotations

import json
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anytask
from anytask.bench.report import KINDS, drawn, laid_out
from anytask.bench.tables import Part, Table
from anytask.core.files import write_whole
from anytask.lm.writing import one_of

#: Stands where the query goes in a prompt to paste.
QUERY = "{input}"


def command_of(source: Any, options: Any) -> str:
    """Return what to type for this tuning: a shell command where there is one, Python otherwise."""
    defaults = type(options)()
    said = {n: v for n, v in options.as_dict().items() if v != getattr(defaults, n) and n not in ("lm", "labels")}
    plain = all(isinstance(value, (str, int, float, bool, dict, list)) for value in said.values())
    if isinstance(source, (str, os.PathLike)) and isinstance(options.lm, (str, os.PathLike)) and plain:
        words = ["anytask", "tune-prompt", os.fspath(source), "--labels", str(options.labels), "--lm", str(options.lm)]
        for name, value in said.items():
            words += ["--set", f"{name}={json.dumps(value)}"]
        return shlex.join(words)
    given = "".join(f", {name}={value!r}" for name, value in {"labels": options.labels, **said}.items())
    return f"anytask.tune_prompt(texts, lm=lm{given})"


def paste(tuning: Any, query: str | None = None) -> str:
    """Return the prompt of a query; of none, with :data:`QUERY` in its place where all queries have one prompt."""
    nearest = tuning.chosen.k and tuning.chosen.show == "similar"
    asked = query or (tuning.pile.texts[0] if nearest else QUERY)
    return str(tuning.pipeline.prompts([asked])[0])


def request_body(tuning: Any) -> dict[str, Any]:
    """Return the body of a request that asks an OpenAI-compatible server with the chosen prompt."""
    lm, prompt = tuning.models[False], paste(tuning)
    words = [tuning.task.word(tuning.chosen, label) for label in tuning.task.choices]
    longest = max(map(lm.count_tokens, words))
    body = {"model": lm.name, "temperature": 0, "max_tokens": longest + 2, "stop": ["\n"]}
    if not lm.capabilities.completions:
        prompt = one_of(prompt, words)
    if tuning.chosen.chat or not lm.capabilities.completions:
        return body | {"messages": [{"role": "user", "content": prompt}]}
    return body | {"prompt": prompt}


def usage_of(tuning: Any, folder: str = "FOLDER") -> str:
    """Return the lines of Python that load the pipeline and ask it."""
    spec = str(tuning.options.lm_name)
    if tuning.chosen.chat:
        spec += f"{'&' if '?' in spec else '?'}chat_template=true"
    lines, given = ["from anytask.incontext import Pipeline", "from anytask.lm import load_lm"], ""
    place = f"{folder}/pipeline"
    if tuning.chosen.rate < 1:
        lines.append("from anytask.prompts import LLMLingua2")
        given = f", compress=LLMLingua2.load({place + '/compress'!r})"
    lines.append(f"pipeline = Pipeline.load({place!r}, lm=load_lm({spec!r}){given})")
    lines.append("answers = pipeline.predict(texts)")
    if tuning.chosen.words:
        back = {word: label for label, word in tuning.task.words[tuning.chosen.words].items()}
        lines.append(f"labels = [{back!r}[answer] for answer in answers]")
    return "\n".join(lines)


def save(tuning: Any, folder: str | os.PathLike[str]) -> None:
    """Write the files that :meth:`anytask.tuning.result.Tuning.save` lists."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    tuning.pipeline.save(place / "pipeline")
    write_whole(place / "prompt.txt", paste(tuning) + "\n")
    write_whole(place / "request.json", json.dumps(request_body(tuning), indent=1, ensure_ascii=False) + "\n")
    write_whole(place / "usage.py", usage_of(tuning, str(folder)) + "\n")
    write_whole(place / "command.txt", tuning.command + "\n")
    write_whole(place / "tuning.json", json.dumps(tuning.to_json(), indent=1) + "\n")
    write_whole(place / "report.html", report(tuning))


def report(tuning: Any) -> str:
    """Return the report as HTML: the answer, the curve, what is said for what, all prompts, how to do it again."""
    found, options = tuning.to_json(), tuning.options.as_dict()
    ((_, caption, curve), *closer) = tuning.figures()
    named = {"kicker": f"Prompt tuning on {tuning.pile.name}", "answer": tuning.sentences(), "command": tuning.command}
    settings = [*((f"option {name}", str(value)) for name, value in options.items() if name != "lm")]
    settings += [("version of anytask", anytask.__version__), ("language model", str(tuning.options.lm_name))]
    settings += [("report written", datetime.now(UTC).isoformat(timespec="seconds"))]
    return laid_out(
        named,
        title=named["kicker"],
        size=f"{found['calls']:,} calls and {found['tokens']:,} tokens of {tuning.options.lm_name}",
        known=f"{len(tuning.pile)} texts, {found['labels']} labels bought, {len(tuning.task.choices)} labels",
        warnings=tuning.warnings,
        kinds=[KINDS.get(found["kind"], found["kind"])],
        ranking=drawn(curve, caption),
        ranked=_table(tuning),
        ranked_note="Leave-one-out on the labelled texts: each is answered by the labels of the others. Prompts are "
        "chosen by the accuracy that is smoothed over the margins of their answers.",
        closer=[drawn(figure, said) | {"title": title} for title, said, figure in closer],
        notes=[f"Paste this prompt:\n{paste(tuning)}", *tuning.pile.notes],
        settings=settings,
    )


def _table(tuning: Any) -> Table:
    def cells(row: Any) -> list[Any]:
        numbers = [f"{x:.3f}" if x == x else "–" for x in (row.accuracy, row.smoothed, row.logprob)]
        return [row.name, *numbers, f"{row.tokens:.0f}" if row.tokens == row.tokens else "–", str(row.asked)]

    parts = [
        Part([cells(tuning.best)], "the choice"),
        Part([cells(row) for row in tuning.rows if row.point != tuning.chosen], "also tried"),
        Part([cells(row) for row in tuning.plain], "plain ways to answer", apart=True),
    ]
    head = ["prompt", "accuracy", "smoothed", "log-probability of the right label", "tokens per query", "texts asked"]
    return Table(head, parts, range(1, len(head)))
