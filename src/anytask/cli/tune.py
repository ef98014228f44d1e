"""``anytask tune-prompt``: from a pile of text to a cheap, good prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from anytask.cli.console import err, fail, one_line, out, print_json
from anytask.cli.settings import check_destinations, chosen_options
from anytask.core.terminal import visible

#: Rows of the table in the terminal; the report has all.
SHOWN = 12


def tune_prompt(
    data: Annotated[str, typer.Argument(help="The pile: a .jsonl or .csv file of texts, or a built-in text set.")],
    lm: Annotated[
        str, typer.Option(help="Language model: a folder, a Hugging Face name, a URL, tiny:NAME or sim:LEVEL.")
    ],
    labels: Annotated[int, typer.Option(min=4, help="How many labels may be bought.")] = 16,
    answers: Annotated[
        Path | None,
        typer.Option(help="JSONL file of texts and labels: read first; what is asked in the terminal is added to it."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    target: Annotated[str | None, typer.Option(help="Column of the labels, where there is one.")] = None,
    choices: Annotated[str | None, typer.Option(help="All labels, joined by commas.")] = None,
    description: Annotated[
        str | None, typer.Option(help="A sentence that may open the prompt; tried with others.")
    ] = None,
    calls: Annotated[int | None, typer.Option(min=1, help="Most calls of the model.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens, read and written.")] = None,
    money: Annotated[float | None, typer.Option(min=0, help="Most money, by the prices of the endpoint.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Most minutes.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any other option, such as max_k=8 or compress=true; repeatable."
        ),
    ] = None,
    store: Annotated[
        Path, typer.Option(help="SQLite file that keeps the model's answers, so that an interrupted search goes on.")
    ] = Path("anytask-answers.sqlite"),
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report here.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Hand over: prompt.txt, pipeline/, request.json, usage.py, ..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
) -> None:
    """From a pile of text to a cheap, good prompt. Exit code 0: done; 1: labels or answers are missing; 2: bad input.

    Chooses which texts are worth labelling, asks for their labels (or takes them from the column, or from --answers),
    searches over prompts by leave-one-out on these labels alone, and shows accuracy against tokens per query, beside
    zero-shot, an untuned prompt, and a classifier without any language model.
    """
    from anytask.lm.protocol import LMError
    from anytask.tuning import prepare_tuning
    from anytask.tuning.labels import Unanswered, append_answer

    limits = {"calls": calls, "tokens": tokens, "money": money, "seconds": minutes and 60 * minutes}
    named = {"text": text, "target": target, "choices": choices, "description": description}
    try:
        with one_line(data):
            chosen = chosen_options(named, options or [])
            check_destinations(store, report, answers)
            if save and save.exists() and not save.is_dir():
                raise ValueError(f"{save} is a file, and a folder is wanted")
            ask = _asker(data, answers, chosen) if asks() else None
            try:
                plan = prepare_tuning(
                    data, lm=lm, labels=labels, annotate=ask, answers=answers, store=store,
                    budget={name: value for name, value in limits.items() if value is not None}, **chosen,
                )  # fmt: skip
            except Unanswered as error:
                if answers is None:
                    raise
                column, goal = columns_of(chosen)
                for one in error.texts:
                    append_answer(answers, {column: one, goal: ""})
                fail(f"{error}: fill in the labels of {answers}, and give the same command again", 1)
        if not as_json:
            err.print(escape(_forecast(plan)), soft_wrap=True)
        with Progress(
            TextColumn("prompts"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=err, transient=True
        ) as bars:
            bar = bars.add_task("prompts", total=1.0)
            found = plan.run(lambda share: bars.update(bar, completed=share))
    except (KeyboardInterrupt, typer.Abort):
        kept = f"Answers are kept in {store}" + (f", labels in {answers}" if answers else "")
        err.print(f"\nStopped. {escape(kept)}; the same command goes on where this one stopped.", soft_wrap=True)
        raise typer.Exit(130) from None
    except LMError as error:
        fail(f"{error}; answers so far are kept in {store}, and the same command goes on", 1)
    with one_line(save or report or ""):
        if save:
            found.save(save)
        if report:
            from anytask.core.files import write_whole
            from anytask.tuning import handover

            write_whole(report, handover.report(found))
    if as_json:
        print_json(found.to_json())
        return
    _show(found)
    for place, what in ((report, "Report"), (save, "Handed over in")):
        if place:
            out.print(f"{what}: {escape(str(place))}", soft_wrap=True)


def asks() -> bool:
    """Return whether there is somebody in the terminal who can be asked."""
    return sys.stdin.isatty()


def columns_of(chosen: dict[str, Any]) -> tuple[str, str]:
    """Return the names of the columns of texts and labels, of the pile and of the answers."""
    return chosen.get("text", "text"), chosen.get("target", "label")


def _asker(data: str, answers: Path | None, chosen: dict[str, Any]) -> Callable[[Sequence[int]], list[str]]:
    """Return what asks for labels in the terminal, one by one; each answer is in the file before the next question."""
    from anytask.tuning.labels import append_answer, load_pile

    column, goal = columns_of(chosen)
    pile = load_pile(data, column, goal, chosen.get("bad_rows", "refuse"))
    known = list((chosen.get("choices") or "").split(",")) if chosen.get("choices") else []

    def ask(places: Sequence[int]) -> list[str]:
        if answers is None:
            err.print("[yellow]Your answers are lost if this is interrupted: --answers FILE keeps them.[/]")
        said = []
        for count, i in enumerate(places, start=1):
            err.print(f"\n[bold]{count} of {len(places)}[/]  {escape(pile.texts[i])}", soft_wrap=True)
            if known:
                err.print("[dim]" + escape("  ".join(f"{n}: {label}" for n, label in enumerate(known, 1))) + "[/]")
            label = ""
            while not label:
                word = typer.prompt("label (or its number)", err=True).strip()
                label = known[int(word) - 1] if word.isdigit() and 0 < int(word) <= len(known) else word
            if label not in known:
                known.append(label)
            if answers:
                append_answer(answers, {column: pile.texts[i], goal: label})
            said.append(label)
        return said

    return ask


def _forecast(plan: Any) -> str:
    told, lm = plan.forecast, plan.models[False]
    time = f", {told.seconds:,.0f} s" if told.seconds < 120 else f", {told.seconds / 60:,.0f} min"
    time = f"{time} of its time" if told.seconds else ""
    money = f", {told.money:.2f} of money" if told.money else ""
    whole = f"{told.calls:,} calls, {told.total_tokens:,} tokens{time}{money}"
    return f"{len(plan.points)} prompts on {len(plan.task.texts)} labels ask {lm.name} at most: {whole}."


def _show(found: Any) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("prompt")
    for name in ("right", "smoothed", "tokens a query", ""):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    front = found.front
    shown = sorted({*map(id, front), *(id(row) for row in found.rows[:SHOWN])})
    rows = [row for row in found.rows if id(row) in shown]
    for row in sorted(rows, key=lambda row: row.tokens):
        style = "bold green" if row.point == found.chosen else "" if row in front else "dim"
        table.add_row(escape(row.name), *_numbers(row), "█" * round(20 * min(1, max(0, row.smoothed))), style=style)
    for row in found.plain:
        table.add_row(f"[italic]{row.name}[/]", *_numbers(row), "")
    out.print(table)
    out.print("[dim]Green: the choice. Dim: a shorter prompt is as good. All by leave-one-out.[/]")
    for sentence in found.sentences():
        out.print(escape(sentence), soft_wrap=True)
    for warning in found.warnings:
        out.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    from anytask.tuning.handover import paste

    typer.echo(visible(f"\n{paste(found)}\n"))


def _numbers(row: Any) -> list[str]:
    if not row.asked:
        return ["–", "–", "–"]
    share = f"{row.accuracy:.0%} of {row.asked}"
    return [share, f"{row.smoothed:.2f}" if row.smoothed == row.smoothed else "–", f"{row.tokens:.0f}"]
