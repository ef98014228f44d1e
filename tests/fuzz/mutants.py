"""Defects put into a copy of the library, each of which the harness has to find: ``python -m fuzz.mutants``.

A mutant is caught where the same calls give defects that the library as it is does not give. One whose text is no
longer in the library is an error: take the line that does its work now.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fuzz.outcomes import DEFECTS, Outcome, planned
from fuzz.pool import SOURCE, fuzz


@dataclass(frozen=True)
class Mutant:
    """One text of one file replaced, what that breaks, and the area in which it must be found."""

    name: str
    file: str
    search: str
    replacement: str
    area: str
    calls: int = 60
    target: str = ""

    def applied(self, text: str) -> str:
        """Return the file's text with the defect."""
        if text.count(self.search) != 1:
            found = f"{text.count(self.search)} places in {self.file} hold {self.search!r}, and one is wanted"
            raise ValueError(f"{self.name}: {found}")
        return text.replace(self.search, self.replacement)


MUTANTS = (
    # core: settings, checks, rollback, saving
    Mutant(
        "settings take any value", "core/settings.py",
        "if not (optional and value is None) and not fits(value):", "if False:", "settings", 60, "continual.TAME",
    ),
    Mutant(
        "numbers may be infinite", "core/settings.py",
        "and bool(abs(value) <= _LARGEST)", "and True", "settings", 120, "continual.TAME",
    ),
    Mutant(
        "a refused set_params keeps what it set", "core/settings.py",
        "            self.__dict__.clear()\n            self.__dict__.update(before)\n", "",
        "settings", 120, "continual.TAME",
    ),
    Mutant(
        "arrays are read in half precision", "core/checks.py",
        'np.dtype(np.float32) if given.dtype.kind == "f"', 'np.dtype(np.float16) if given.dtype.kind == "f"',
        "learning", 12, "continual.NearestClassMean",
    ),
    Mutant(
        "rows and labels may differ in number", "core/checks.py",
        "if len(X) != len(y):", "if False:", "methods", 100, "continual.NearestClassMean.partial_fit",
    ),
    Mutant(
        "rows of another shape are not refused", "core/checks.py",
        "if tuple(X.shape[1:]) == tuple(shape):", "if True:", "methods", 300, "continual.NearestClassMean.predict",
    ),
    Mutant(
        "the least probable label is answered", "core/checks.py",
        "best = probabilities.argmax(1)", "best = probabilities.argmin(1)", "learning", 12,
        "continual.NearestClassMean",
    ),
    Mutant(
        "nothing is rolled back", "core/rollback.py",
        "        snapshot.restore()\n", "        pass\n", "methods", 150, "continual.FineTuning.partial_fit",
    ),
    Mutant(
        "weights are not rolled back", "core/rollback.py",
        "self._tensors.append(obj)", "pass", "methods", 150, "continual.FineTuning.partial_fit",
    ),
    Mutant(
        "a failed fit forgets what was learned", "core/estimator.py",
        "            self.__dict__.clear()\n            self.__dict__.update(before)\n", "",
        "methods", 200, "robust.Spreading",
    ),
    Mutant(
        "the seed is ignored", "core/rng.py",
        "    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]",
        "    return int.from_bytes(__import__('os').urandom(8) + hashlib.sha256(text.encode()).digest()[:0]",
        "learning", 12, "continual.FineTuning",
    ),
    Mutant(
        "the checksum of the weights is not read", "core/persistence.py",
        'if f"state-{_digest(data)}.safetensors" != name:', "if False:",
        "saving", 250, "continual.NearestClassMean",
    ),
    Mutant(
        "the checksum of the tree is not read", "core/persistence.py",
        'if _digest(json.dumps(tree).encode()) != head["sha256"]:', "if False:",
        "saving", 250, "continual.NearestClassMean",
    ),
    Mutant(
        "weights are saved in half precision", "core/persistence.py",
        "tensors[name] = value.detach().cpu().clone().contiguous()",
        "tensors[name] = value.detach().cpu().clone().contiguous()\n"
        "        if value.dtype == torch.float32:\n"
        "            tensors[name] = tensors[name].half().float()", "saving", 100, "continual.FineTuning",
    ),
    Mutant(
        "arrays are loaded in reverse", "core/persistence.py",
        '.numpy().astype(value["dtype"]).reshape(value["shape"])',
        '.numpy().astype(value["dtype"]).reshape(value["shape"])[::-1]', "saving", 40, "continual.NearestClassMean",
    ),
    # datasets
    Mutant(
        "labels come in reverse", "datasets/tables.py",
        'y, tasks, groups = read["labels"],', 'y, tasks, groups = read["labels"][::-1],',
        "loaders", 120, "load_labelled",
    ),
    Mutant(
        "the first row of a table is lost", "datasets/csv_files.py",
        "frame = frame.iloc[1:].reset_index(drop=True)", "frame = frame.iloc[2:].reset_index(drop=True)",
        "loaders", 120,
        "load_labelled",
    ),
    Mutant(
        "missing and infinite inputs are read", "datasets/labelled.py",
        "            if bad.any():\n", "            if False:\n", "loaders", 400, "load_labelled",
    ),
    Mutant(
        "texts and labels are swapped", "datasets/text.py",
        "texts, labels, choices, ids, places = zip(*kept)", "labels, texts, choices, ids, places = zip(*kept)",
        "loaders", 120, "load_text",
    ),
    Mutant(
        "bytes that are no text are not caught", "datasets/text.py",
        "    except UnicodeDecodeError as error:\n", "    except ZeroDivisionError as error:\n",
        "loaders", 200, "load_text",
    ),
    Mutant(
        "JSON that cannot be read is not caught", "datasets/text.py",
        "        row = json.loads(line)\n", "        return json.loads(line)\n", "loaders", 150, "load_text",
    ),
    Mutant(
        "episodes: actions are those of the step before", "datasets/episode_files/npz.py",
        'actions, lengths = arrays["actions"], arrays["lengths"]',
        'actions, lengths = np.roll(arrays["actions"], 1, axis=0), arrays["lengths"]', "loaders", 80, "load_episodes",
    ),
    Mutant(
        "episodes: rewards are lost", "datasets/episode_files/npz.py",
        'arrays.get("rewards", np.zeros(len(actions))),', "np.zeros(len(actions)),", "loaders", 80, "load_episodes",
    ),
    Mutant(
        "reading text never ends", "datasets/text.py",
        '    if kind in (".jsonl", ".ndjson"):\n',
        '    while content.count("{") != content.count("}"):\n        pass\n    if kind in (".jsonl", ".ndjson"):\n',
        "loaders", 120, "load_text",
    ),
    # systems
    Mutant(
        "a chunk is learned before it is checked", "continual/base.py",
        "        X_, y_, shown = self._check_annotated(X, y, task, classes)\n        with self._update():\n",
        "        self.n_chunks_ = getattr(self, 'n_chunks_', 0) + 1\n"
        "        X_, y_, shown = self._check_annotated(X, y, task, classes)\n"
        "        self.n_chunks_ -= 1\n        with self._update():\n", "methods", 300, "continual.NearestClassMean",
    ),
    Mutant(
        "probabilities do not sum to one", "robust/base.py",
        ".double().softmax(dim=1)", ".double().sigmoid()", "learning", 10, "robust.Spreading",
    ),
    Mutant(
        "answers depend on the place of a row", "robust/base.py",
        "        probabilities = require_finite(scores,",
        "        scores = scores.cumsum(0)\n        probabilities = require_finite(scores,",
        "methods", 60, "robust.Spreading",
    ),
    Mutant(
        "a memory is changed before an observation is checked", "control/ppo/__init__.py",
        "        given = Given(obs, shapes_of(observation_space), self._device)\n",
        "        self._order.manual_seed(self._order.initial_seed() + 1)\n"
        "        given = Given(obs, shapes_of(observation_space), self._device)\n", "methods", 40, "control.PPO.act",
    ),
    # bench and command line
    Mutant(
        "brackets in messages are read as markup", "cli/console.py",
        'err.print(f"[bold red]error:[/] {escape(text)}"', 'err.print(f"[bold red]error:[/] {text}"', "cli", 250,
    ),
    Mutant(
        "bad options end in a traceback", "cli/console.py",
        "        fail(error)\n    except Exception as error:", "        raise\n    except ZeroDivisionError as error:",
        "cli", 250,
    ),
    Mutant(
        "a terminal obeys what an argument holds", "core/terminal.py",
        "    return _OBEYED.sub(lambda found: found[0].encode(\"unicode_escape\").decode(), text)\n",
        "    return text\n", "cli", 250,
    ),
)  # fmt: skip


def found(source: Path, mutant: Mutant, seed: int, known: set[Any] | None = None) -> set[tuple[str, str, str]]:
    """Return the signatures of the defects that the calls for a mutant give with the library in ``source``.

    With ``known`` the calls end at the first other one.
    """
    seen: set[tuple[str, str, str]] = set()

    def ended(outcome: Outcome) -> bool:
        if outcome.kind in DEFECTS:
            seen.add(outcome.signature)
        return known is not None and bool(seen - known)

    fuzz(planned(mutant.calls, [mutant.area]), ended, seed=seed, limit=10, source=source, target=mutant.target)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a mutant's name")
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if given.only in mutant.name]
    missed, plain = [], {}
    for mutant in chosen:
        begin = time.monotonic()
        most = max(m.calls for m in chosen if (m.area, m.target) == (mutant.area, mutant.target))
        key = (mutant.area, mutant.target)
        if key not in plain:  # as the library is, with as many calls as any mutant gets there
            plain[key] = found(SOURCE, replace(mutant, calls=most), given.seed)
        with tempfile.TemporaryDirectory(prefix="fuzz-mutant-") as folder:
            source = Path(folder) / "src"
            shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
            file = source / "anytask" / mutant.file
            file.write_text(mutant.applied(file.read_text(encoding="utf-8")), encoding="utf-8")
            new = found(source, mutant, given.seed, plain[key]) - plain[key]
        missed += [] if new else [mutant.name]
        first = ": " + " ".join(sorted(new)[0])[:110] if new else ""
        said = "caught" if new else "MISSED"
        print(f"{said}  {mutant.name} ({time.monotonic() - begin:.0f} s){first}", flush=True)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught" + (f"; missed: {', '.join(missed)}" if missed else ""))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
