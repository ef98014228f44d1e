"""What ``anytask tune-prompt`` finds beside dspy's optimizers, on the same labels, model, held-out texts and calls.

``BootstrapFewShotWithRandomSearch`` and ``MIPROv2`` get the 16 labels that our search bought (the splits and draws are
those of ``scripts/measure_tuning.py``; with its ``--store`` our own part is read, not asked again), the same frozen
model, also to propose instructions, the sentence that lists the labels as their first instruction, and as many calls as
our race spent. A call is a distinct prompt: one written answer, or one prompt scored with all labels. The optimizer
stops when they are spent, and the best program that it has judged whole counts. Each is run in two ways: dspy's own
chat prompts, whose answers are written greedily (``written``: a text that names a label counts as that label, so that a
small model is not failed for its form), and our template, whose labels are scored as ours are (``scored``).

Not shared: our chat template and calibration. dspy judges random search on the examples that it shows, and splits them
4 to 12 for MIPROv2: its defaults, except for the most demonstrations, ``--max-k`` for all.

    python benchmarks/tuning_peers.py --sets reviews topics customer-intents --draws 100 101 102 103 104 --rows 50

Without arguments it is a look at one development draw, of about an hour; ``--calls 100`` makes it shorter.
Needs ``dspy[optuna]`` and SmolLM2-135M (``make real``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

os.environ |= {"DSPY_CACHEDIR": tempfile.mkdtemp(), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "TQDM_DISABLE": "1"}
import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from dspy.utils.exceptions import AdapterParseError

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from measure_tuning import SETS, answered, bought, calls_of, summary, told

from anytask.core.rng import derive
from anytask.lm import load_lm
from anytask.lm.metered import Metered
from anytask.lm.option_scoring import score_options
from anytask.lm.prompting import Demonstration
from anytask.lm.protocol import BudgetExceeded, ChatRequest
from anytask.models.real import REAL
from anytask.tuning.grid import describe
from anytask.tuning.plan import Plan

#: Most new tokens of an answer and of a proposed instruction.
ANSWER, INSTRUCTION = 24, 150


class Spent(BaseException):
    """The calls are spent; no ``Exception``, which dspy would take for a wrong answer."""


@dataclass
class Engine:
    """Answers dspy's requests, counts the tokens that are read, and ends the search when its calls are spent."""

    lm: Metered
    seed: int
    sampled: int = 0
    read: list[int] = field(default_factory=list)

    def complete(self, request: Request) -> Response:
        """Write one answer: greedy, or a new sample where dspy asks for a temperature."""
        system = [{"role": "system", "content": request.system}] if request.system else []
        messages = (*system, *({"role": m.role, "content": m.text or ""} for m in request.messages))
        self.sampled += bool(request.config.temperature)
        asked = ChatRequest(
            messages, temperature=request.config.temperature or 0.0, max_tokens=request.config.max_tokens,
            stop=("[[ ## completed",), seed=derive(self.seed, self.sampled) if request.config.temperature else 0,
        )  # fmt: skip
        with self._counted(*(str(message["content"]) for message in messages)):
            [reply] = self.lm.chat_many([asked])
        message = Message(reply.choices[0].message["role"], (TextPart(reply.text or " "),))
        return Response(None, request.model, message, "stop", Usage(0, 0))

    def scores(self, prompt: str, options: Sequence[str]) -> np.ndarray:
        """Return the scores of options after a prompt, by the rule of our own search."""
        with self._counted(prompt):
            return score_options(self.lm, [prompt], [options])[0]

    @contextlib.contextmanager
    def _counted(self, *texts: str) -> Iterator[None]:
        try:
            yield
        except BudgetExceeded as error:
            raise Spent from error
        self.read.append(sum(map(self.lm.count_tokens, texts)))


class Written(dspy.ChatAdapter):
    """dspy's chat prompts; an answer without their form is taken at its word, where there is one field."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        super().__init__(use_json_adapter_fallback=False)
        self.engine, self.plan = engine, plan

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """Return the fields of an answer."""
        try:
            return dict(super().parse(signature, completion))
        except AdapterParseError:
            if len(signature.output_fields) > 1:
                raise
            [name] = signature.output_fields
            named = {completion.find(label): label for label in self.plan.task.choices if label in completion}
            if name == "label" and not named:
                raise
            return {name: named[min(named)] if name == "label" else completion.strip()}


class Scored(Written):
    """Our template, and the label that scores best; all else is asked as dspy does."""

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> list[dict[str, Any]]:
        """Answer one query."""
        if "label" not in signature.output_fields:
            return list(super().__call__(lm, lm_kwargs, signature, demos, inputs))
        model, choices = self.engine.lm, self.plan.task.choices
        template = replace(self.plan.task.template, description=signature.instructions)
        options = [template.completion(label) for label in choices]
        prompt = template.assemble(
            [Demonstration(demo["text"], demo["label"]) for demo in demos], inputs["text"],
            count_tokens=model.count_tokens, budget=model.context_length,
            reserve=1 + max(map(model.count_tokens, options)),
        )  # fmt: skip
        return [{"label": choices[int(self.engine.scores(prompt.text, options).argmax())]}]


class Best(dspy.utils.BaseCallback):
    """Remembers the best program that was judged whole, the first of equal ones, as dspy's optimizers do."""

    def __init__(self, student: Any) -> None:
        self.program, self.score = student, -1.0

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Remember what is judged."""
        self.judged = inputs["program"]

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        """Take it if it is better."""
        if outputs is not None and outputs.score > self.score:
            self.program, self.score = self.judged, outputs.score


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    """Exact match."""
    return bool(example.label == prediction.label)


def random_search(engine: Engine, calls: int, most: int) -> Any:
    """Return dspy's random search over bootstrapped demonstrations, with more candidates than calls allow."""
    candidates = {"num_candidate_programs": calls // 8, "max_labeled_demos": most}
    return dspy.BootstrapFewShotWithRandomSearch(right, num_threads=1, **candidates).compile


def mipro(engine: Engine, calls: int, most: int) -> Any:
    """Return dspy's joint search over instructions and demonstrations, with more trials than calls allow."""
    writer = dspy.LM("local", engine=engine, cache=False, max_tokens=INSTRUCTION, num_retries=0)
    searcher = dspy.MIPROv2(
        right, prompt_model=writer, auto=None, num_candidates=10, max_labeled_demos=most, num_threads=1,
        seed=engine.seed,
    )  # fmt: skip
    return lambda student, trainset: searcher.compile(
        student, trainset=trainset, num_trials=calls // 8, minibatch=False
    )


ADAPTERS = {"written": Written, "scored": Scored}
OPTIMIZERS = {"BootstrapFewShotWithRandomSearch": random_search, "MIPROv2": mipro}


def optimized(plan: Plan, calls: int, texts: list[str], labels: list[str], how: str, key: str, args: Any) -> dict:
    """Return how well the program that an optimizer of dspy finds answers held-out texts, and what it asked."""
    task, seed = plan.task, plan.options.seed
    examples = [dspy.Example(text=t, label=y).with_inputs("text") for t, y in zip(task.texts, task.labels)]
    np.random.default_rng(derive(seed, "examples")).shuffle(examples)
    fields = {"text": (str, dspy.InputField()), "label": (Literal[tuple(task.choices)], dspy.OutputField())}
    student = dspy.Predict(dspy.Signature(fields, describe("labels", task.choices)))
    engine, best = Engine(Metered(plan.models[False], args.store, {"calls": calls}), seed), Best(student)
    lm = dspy.LM("local", engine=engine, cache=False, temperature=0.0, max_tokens=ANSWER, num_retries=0)
    began = time.perf_counter()
    with (
        dspy.context(lm=lm, adapter=ADAPTERS[how](engine, plan), callbacks=[best], max_errors=10**9, num_threads=1),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        with contextlib.suppress(Spent):
            OPTIMIZERS[key](engine, calls, args.max_k)(student, trainset=examples)
        spent, seconds = engine.lm.budget.used_calls, time.perf_counter() - began
        engine.lm, engine.read = Metered(plan.models[False], args.store), []
        held = [dspy.Example(text=t, label=y).with_inputs("text") for t, y in zip(texts, labels)]
        score = dspy.Evaluate(devset=held, metric=right)(best.program).score / 100
    return {
        "accuracy": score, "on_its_labels": best.score / 100 if best.score >= 0 else None, "calls": spent,
        "tokens": float(np.mean(engine.read)), "seconds": seconds,
        "held_out_seconds": time.perf_counter() - began - seconds,
        "demonstrations": len(best.program.demos), "instruction": best.program.signature.instructions,
    }  # fmt: skip


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default="smollm2-135m")
    parser.add_argument("--sets", nargs="+", default=["topics"], choices=SETS)
    parser.add_argument("--draws", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", default=list(ADAPTERS), choices=ADAPTERS)
    parser.add_argument("--labels", type=int, default=16)
    parser.add_argument("--rows", type=int, default=20, help="held-out texts of each draw")
    parser.add_argument("--max-k", type=int, default=8)
    parser.add_argument("--calls", type=int, help="fewer calls than our race spent, for a look")
    parser.add_argument("--store", default="measure-tuning.sqlite")
    parser.add_argument("--out", type=Path, default=Path("tuning-peers.json"))
    args = parser.parse_args()
    if args.lm in REAL and not REAL[args.lm].is_here:
        print(json.dumps({"skipped": f"{args.lm} was not fetched: make real"}))
        return
    logging.disable(logging.ERROR)
    lm, runs, others = load_lm(args.lm), [], [f"{key}, {how}" for how in args.ways for key in OPTIMIZERS]
    for draw in args.draws:
        for name in args.sets:
            plan, *held = bought(name, draw, lm, args)
            tuning = plan.run()
            calls = args.calls or round(calls_of(plan, tuning))
            found = {f"{key}, {how}": optimized(plan, calls, *held, how, key, args) for how in args.ways
                     for key in OPTIMIZERS}  # fmt: skip
            accuracy = {"the choice": answered(plan, tuning.chosen, *held).accuracy}
            accuracy |= {other: found[other]["accuracy"] for other in others}
            runs.append({"set": name, "draw": draw, "calls": calls, "accuracy": accuracy, "choice": str(tuning.chosen),
                         "dspy": found})  # fmt: skip
            rows = summary(runs, others)
            whole = {"lm": args.lm, "dspy": dspy.__version__, "labels": args.labels, "rows": args.rows, "runs": runs}
            args.out.write_text(json.dumps({**whole, "summary": rows}, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(runs[-1], indent=1), flush=True)
    print(told(rows))


if __name__ == "__main__":
    main()
