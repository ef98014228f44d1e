"""The command line: ``anytask list | show | compare | verify | tune-prompt | models | app``."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

import anytask
from anytask import catalogue
from anytask.cli.console import Commands, err, fail, one_line, out, print_json, show_warning
from anytask.cli.evidence import evidence_lines, outcomes, real_lines
from anytask.cli.models import models
from anytask.cli.settings import check_destinations, chosen_options
from anytask.cli.tables import options as options_table
from anytask.cli.tables import parameters
from anytask.cli.tune import tune_prompt
from anytask.core.terminal import visible

app = typer.Typer(
    cls=Commands,
    help="Task-agnostic learning systems: find one, compare them on your data, check their papers' claims.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Backend(StrEnum):
    """Where runs are executed."""

    loky = "loky"
    threading = "threading"
    sequential = "sequential"
    ray = "ray"
    dask = "dask"


def _version(show: bool) -> None:
    if show:
        typer.echo(f"anytask {anytask.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_systems(
    family: Annotated[str | None, typer.Option(help="Only this family, e.g. continual.")] = None,
    problem: Annotated[
        str | None, typer.Option(help="Only systems for this kind of problem, e.g. task-stream.")
    ] = None,
    search: Annotated[str | None, typer.Option(help="Words that all occur in key, name, title, use or family.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """What exists for my problem?"""
    with one_line():
        cards = catalogue.search(search, family=family, problem=problem)
    if as_json:
        print_json([catalogue.as_dict(card) for card in cards])
        return
    if not cards:
        out.print("No system matches. `anytask list` shows all of them.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("key", "family", "state"):
        table.add_column(name, no_wrap=True)
    table.add_column("what it does for you")
    for card in cards:
        ready = catalogue.state(card) == "available"
        table.add_row(
            f"[bold]{card.key}[/]" if ready else card.key,
            card.family,
            "[green]available[/]" if ready else "[dim]planned[/]",
            escape(card.use),
            style=None if ready else "dim",
        )
    out.print(table)
    ready_count = sum(catalogue.state(card) == "available" for card in cards)
    out.print(f"\n{len(cards)} systems, {ready_count} available. `anytask show KEY` tells more.")


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="A system's key, as `anytask list` prints it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card and the evidence as JSON.")] = False,
) -> None:
    """One system: its card, protocol, parameters and recorded evidence."""
    from anytask.claims.evidence import read_evidence

    with one_line():
        card = catalogue.get(key)
        evidence = read_evidence(key)
    if as_json:
        print_json(catalogue.as_dict(card) | {"evidence": evidence})
        return
    state = catalogue.state(card)
    paper = f"{card.year}" + (f", arXiv:{card.arxiv}" if card.arxiv else "")
    out.print(f"[bold]{card.name}[/]  {escape(card.title)} ({paper})\n")
    out.print(f"{escape(card.use)}\n")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_row("state", state)
    facts.add_row("family", card.family)
    facts.add_row("problems", ", ".join(card.problems))
    facts.add_row("sees of the task", card.sees)
    facts.add_row("install", f"pip install 'anytask\\[{card.extra}]'" if card.extra else "pip install anytask")
    module, name = card.entry.split(":")
    facts.add_row("import", f"from {module} import {name}")
    out.print(facts)
    if state == "available":
        _show_class(card)
    _show_evidence(evidence, key)


def _show_class(card: catalogue.Card) -> None:
    try:
        cls = catalogue.load(card)
    except ImportError as error:
        err.print(f"\n{escape(str(error))}")
        return
    methods = [name + _parameters(getattr(cls, name)) for name in _PROTOCOL if callable(getattr(cls, name, None))]
    out.print("\n[bold]Protocol[/]")
    for line in methods:
        out.print(f"  {escape(line)}", soft_wrap=True)
    out.print("\n[bold]Parameters[/]")
    out.print(parameters(cls))


_PROTOCOL = (
    *("fit", "partial_fit", "end_task", "predict", "predict_proba", "save", "load"),
    *("select", "retrieve", "compress", "search"),
    *("train", "improve", "act", "evaluate"),
)


def _parameters(method: Any) -> str:
    """A method's parameters with their defaults, without annotations and ``self``."""
    import inspect

    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in inspect.signature(method).parameters.items()
        if name != "self"
    ]
    return str(inspect.Signature(plain))


def _show_evidence(evidence: dict[str, Any] | None, key: str) -> None:
    out.print("\n[bold]Evidence[/]")
    if evidence is None:
        out.print(f"  none recorded; `anytask verify {key}` runs the claim where there is one")
        return
    for line in evidence_lines(evidence):
        out.print(line)


class _CompareCommand(TyperCommand):
    """``compare``, whose ``--help`` also lists the options of the problem that is named beside it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from anytask import problems

        named = [word for word in ctx.meta.get("words", ()) if word in problems.KEYS]
        if named:
            out.print(f"[bold]Options of {named[0]}[/], as --set NAME=VALUE unless listed above")
            out.print(options_table(problems.get(named[0])))
        else:
            known = ", ".join(problems.KEYS)
            out.print(f"`anytask compare PROBLEM --help` lists the options of a problem: {known}.")


@app.command(cls=_CompareCommand)
def compare(
    problem: Annotated[str, typer.Argument(help="A kind of problem, e.g. task-stream or few-shot-text.")],
    data: Annotated[
        str, typer.Option(help="A built-in name (digits), a file (.npz, .csv, .parquet, .jsonl), or a folder.")
    ],
    systems: Annotated[
        str,
        typer.Option(
            help="Keys joined by commas (stages of one pipeline by +: votek+llmlingua2), or 'all' that fit the problem."
        ),
    ] = "all",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds per system: 5, or 3 where a real language model answers.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    target: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    targets: Annotated[str | None, typer.Option(help="Columns of several targets, joined by commas.")] = None,
    task: Annotated[str | None, typer.Option(help="Column that says which task a row is from.")] = None,
    identity: Annotated[
        str | None, typer.Option(help="What the stream tells of the task at most: train+test, train, boundary, none.")
    ] = None,
    lm: Annotated[
        str | None, typer.Option(help="Language model: a folder, a Hugging Face name, a URL, tiny:NAME or sim:LEVEL.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any option of the problem; repeatable."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Include the problem's baselines.")
    ] = True,
    budget_seconds: Annotated[float | None, typer.Option(help="Start no new run after this time.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 2,
    backend: Annotated[Backend, typer.Option(help="Where the runs are executed.")] = Backend.loky,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Keep finished runs, or run all again.")] = True,
    store: Annotated[Path, typer.Option(help="SQLite file that keeps every run.")] = Path("anytask-runs.sqlite"),
    report: Annotated[Path | None, typer.Option(help="Write a self-contained HTML report here.")] = None,
    mlflow: Annotated[str | None, typer.Option(metavar="URI", help="Export the runs to this MLflow server.")] = None,
    save_best: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Train the winner on all of the data, and save it here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON instead of a table.")] = False,
) -> None:
    """What works best on my data? Exit code 0: every run ended; 1: some failed; 2: bad input, nothing written."""
    from anytask import bench, problems

    try:
        with one_line(data):
            kind = problems.get(problem)
            named = {"text": text, "target": target, "targets": targets, "task": task, "identity": identity, "lm": lm}
            chosen = chosen_options(named, options or [])
            kind.check_options(chosen)
            check_destinations(store, report)
            comparison = bench.compare(
                kind,
                data=data,
                systems="all" if systems == "all" else [key.strip() for key in systems.split(",") if key.strip()],
                seeds=seeds or "auto",
                baselines=baselines,
                budget_seconds=budget_seconds,
                jobs=jobs,
                backend=backend.value,
                resume=resume,
                store=store,
                report=report,
                mlflow=mlflow,
                save_best=save_best,
                progress=not as_json,
                **chosen,
            )
    except KeyboardInterrupt:
        kept = f"Finished runs are kept in {escape(str(store))}"
        err.print(f"\nStopped. {kept}; the same command goes on where this one stopped.")
        raise typer.Exit(130) from None
    if as_json:
        print_json(comparison.to_json())
    else:
        out.print(comparison.rich_table())
        for warning in comparison.warnings:
            out.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
        for note in comparison.data.describe().get("notes", ()):
            out.print(f"[dim]data: {escape(note)}[/]")
        for name, reason in comparison.left_out:
            out.print(f"[dim]left out: {escape(name)}: {escape(reason)}[/]")
        for run in comparison.failed:
            err.print(
                f"[red]failed:[/] {escape(run.entrant_name)} (seed {run.seed}): {escape(_first_line(run.error))}",
                highlight=False,
            )
        if comparison.not_run:
            why = "somebody stopped the comparison" if comparison.stopped else "the time budget was used up"
            err.print(f"{len(comparison.not_run)} runs were not started: {why}.")
        if report:
            out.print(f"Report: {escape(str(report))}")
        if comparison.saved:
            _print_saved(comparison.saved)
    if comparison.failed or comparison.not_run or (comparison.saved and comparison.saved.error):
        raise typer.Exit(1)


def _print_saved(saved: Any) -> None:
    (err if saved.error else out).print(escape(saved.sentence), soft_wrap=True)
    if saved.usage:
        typer.echo(visible(f"\n{saved.usage}\n"))
        for note in saved.notes:
            out.print(f"[dim]{escape(note)}[/]")


def _first_line(error: Any) -> str:
    message = error.get("message", "") if isinstance(error, dict) else str(error)
    return (message.strip().splitlines() or ["no message"])[0]


@app.command()
def verify(
    key: Annotated[str, typer.Argument(help="A system's key, or 'all' that have a claim.")],
    quick: Annotated[bool, typer.Option("--quick", help="One small run; nothing is judged or recorded.")] = False,
    real: Annotated[
        bool, typer.Option("--real", help="The trial on real weights or data, recorded beside the claim.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10, help="A development look at seeds 0 to n-1; nothing is recorded.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 2,
    evidence: Annotated[Path | None, typer.Option(help="Folder for the recorded evidence.")] = None,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Write the outcome to the evidence folder.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON.")] = False,
) -> None:
    """Does a system do what its paper says? Every recorded look takes ten new seeds; interrupted, it goes on later."""
    from anytask import claims

    if real and seeds is not None:
        fail("--seeds is for the claim's own experiments, and --real has its own number of seeds")
    with one_line():
        chosen = [claims.get(k) for k in (claims.KEYS if key == "all" else (key,))]
    if real and key == "all":
        chosen = [claim for claim in chosen if not isinstance(claim.real, str)]
    found = []
    for claim in chosen:
        with one_line(claim.system):
            found.append(_verified(claim, quick, real, seeds, jobs, evidence, record, as_json))
    if len(found) > 1 and not (quick or real or as_json):
        out.print(outcomes(found))
    if any(one["failures"] for one in found):
        raise typer.Exit(1)


def _verified(
    claim: Any,
    quick: bool,
    real: bool,
    seeds: int | None,
    jobs: int,
    folder: Path | None,
    record: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Run a claim or its trial, print what came of it, and record it where that is wanted."""
    from anytask.claims.evidence import next_look, read_evidence, write_evidence
    from anytask.claims.verify import verify, verify_real

    recorded = read_evidence(claim.system, folder)
    record = record and not quick and seeds is None
    if real and record and recorded is None:
        raise ValueError(f"a trial is recorded beside the claim: run anytask verify {claim.system} first")
    if real:
        before = (recorded or {}).get("real", {}).get("looks", 0)
        found = verify_real(claim, quick=quick, look=before + 1, jobs=jobs, progress=not as_json)
        kept = {**(recorded or {}), "real": found}
    else:
        look = next_look(claim.system, folder)
        found = verify(claim, quick=quick, seeds=seeds, look=look, jobs=jobs, progress=not as_json)
        kept = found if recorded is None or "none" in recorded["real"] else {**found, "real": recorded["real"]}
    if as_json:
        print_json(found)
    else:
        for line in real_lines(claim.system, found, quick) if real else evidence_lines(found, quick):
            out.print(line)
        for failure in found["failures"]:
            err.print(f"  [red]failed:[/] {escape(failure)}")
    if record:
        path = write_evidence(kept, folder)
        if not as_json:
            out.print(f"  recorded in {escape(str(path))}")
    return found


app.command()(models)
app.command("tune-prompt")(tune_prompt)


@app.command("app")
def open_app(
    store: Annotated[Path, typer.Option(help="The store of runs whose comparisons are shown.")] = Path(
        "anytask-runs.sqlite"
    ),
    answers: Annotated[Path, typer.Option(help="The store of `anytask tune-prompt`, whose tunings are shown.")] = Path(
        "anytask-answers.sqlite"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8050,
    host: Annotated[
        str, typer.Option(help="The address to serve at; the default lets only this machine in.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    nero: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A saved NERO result for the NERO page, or a folder of them; repeatable."),
    ] = None,
) -> None:
    """The catalogue and your comparisons in a browser, also while they run."""
    with one_line():
        from anytask.app.server import is_loopback, serve
    if not is_loopback(host):
        err.print(
            f"[yellow]warning:[/] whoever can reach {escape(host)} can read this store and stop its comparisons.",
            highlight=False,
            soft_wrap=True,
        )

    def ready(address: str) -> None:
        out.print(f"anytask is at {address}   (Ctrl-C ends it)", soft_wrap=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    with one_line(store):
        serve(store, host=host, port=port, nero=nero or [], answers=answers, on_ready=ready)
    out.print("\nStopped.")


def main() -> None:
    """Entry point of the ``anytask`` command; Ctrl-C and SIGTERM raise ``KeyboardInterrupt`` in it."""
    warnings.showwarning = show_warning
    logging.basicConfig(format="%(message)s", handlers=[RichHandler(console=err, show_time=False, show_path=False)])
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background processes with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
