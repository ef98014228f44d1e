"""Episodes in LeRobot's layout, version 2: a folder with one parquet file per episode. Read only."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anytask.datasets.archives import opened_image, opened_parquet, parquet_batches
from anytask.datasets.episode_files.common import read_json, read_text, reading
from anytask.datasets.episodes import Episode, Episodes

logger = logging.getLogger(__name__)

INFO = Path("meta", "info.json")


def read(path: Path) -> Episodes:
    import pyarrow as pa

    info = read_json(path / INFO)
    files = sorted(path.glob("data/chunk-*/episode_*.parquet"))
    if not files:
        raise ValueError("there is no data/chunk-*/episode_*.parquet (LeRobot version 2)")
    features = info.get("features", {})
    videos = [name for name, feature in features.items() if feature.get("dtype") == "video"]
    if videos:
        logger.warning("%s: %s are videos and are left out", path, ", ".join(videos))
    tasks = _tasks(path / "meta" / "tasks.jsonl")
    episodes = []
    for file in files:
        with reading(file), opened_parquet(file) as stored:
            table = pa.Table.from_batches(parquet_batches(file, stored), stored.schema_arrow)
            episodes.append(_episode(file, table, features, tasks))
    attributes = {name: info[name] for name in ("robot_type", "fps") if info.get(name) is not None}
    return Episodes.from_list(episodes, attributes, names=[file.name for file in files])


def _tasks(path: Path) -> dict[int, str]:
    """Return the texts of the tasks by their numbers."""
    tasks: dict[int, str] = {}
    if path.exists():
        lines = read_text(path).split("\n")  # a name may hold U+2028, where splitlines() would cut
        for number, line in enumerate(lines, 1):
            if line.strip():
                with reading(f"{path}, line {number}"):
                    row = json.loads(line)
                    tasks[row["task_index"]] = row["task"]
    return tasks


def _episode(file: Path, table: Any, features: Mapping[str, Any], tasks: Mapping[int, str]) -> Episode:
    columns = set(table.column_names)
    keys = sorted(c for c in columns if c == "observation" or c.startswith("observation."))
    if "action" not in columns or not keys:
        raise ValueError(f"columns 'action' and 'observation.*' are wanted, it has {sorted(columns)}")
    if table.num_rows == 0:
        raise ValueError("there are no steps")
    done, success = (
        bool(table[name][-1].as_py()) if name in columns else None for name in ("next.done", "next.success")
    )
    facts: dict[str, Any] = {} if success is None else {"success": success}
    if "task_index" in columns:
        number = table["task_index"][0].as_py()
        facts["task"] = str(tasks.get(number, number))
    return Episode(
        {key.removeprefix("observation."): _column(file, table, key, features) for key in keys},
        _column(file, table, "action", features),
        table["next.reward"].to_numpy() if "next.reward" in columns else None,
        terminated=bool(done) and success is not False,
        attributes=facts,
    )


def _column(file: Path, table: Any, name: str, features: Mapping[str, Any]) -> np.ndarray:
    values = table[name].to_pylist()
    if None in values:
        raise ValueError(f"{name} is missing in row {values.index(None)}")
    if isinstance(values[0], dict):
        return np.stack([_image(file, value, f"{name} in row {i}", len(values)) for i, value in enumerate(values)])
    try:
        array = np.array(values)
    except ValueError as error:
        raise ValueError(f"the rows of {name} have different lengths") from error
    shape = features.get(name, {}).get("shape")
    return array.reshape(len(array), *shape) if shape and len(shape) > 1 else array


def _image(file: Path, stored: Mapping[str, Any], what: str, n: int) -> np.ndarray:
    """Read one of ``n`` images, of which a row holds the bytes or the path from the data set's folder."""
    with reading(f"{file}: {what}"):
        source = io.BytesIO(stored["bytes"]) if stored.get("bytes") else file.parents[2] / stored["path"]
        with opened_image(source, f"{file}: {what}", 4 * n) as image:
            return np.asarray(image.convert("RGB"))
