"""Hand the runs of a comparison to an MLflow server or folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from anytask.bench.report import write_report
from anytask.bench.results import Results
from anytask.bench.wording import headline
from anytask.core.environment import environment
from anytask.core.files import scratch_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: What MLflow is told while it is used here: folders are meant, and nobody is told of their use.
_ENVIRONMENT = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}

_WORKS = (
    "what works is a folder (a path or file:...), a server (http://...), or, with the full package mlflow, a database"
)


def export(comparison: Results, uri: str) -> list[str]:
    """Write every run of a comparison to MLflow, with its parameters, metrics, costs and tags, and the report beside.

    The experiment is named ``anytask/<problem>/<data>``. One more run, "comparison", carries the report as an artifact.

    Parameters
    ----------
    comparison : Comparison
        What :func:`anytask.bench.compare` returned.
    uri : str
        Tracking URI. A folder (a path or ``file:...``) works without a server and without a network; so it does with
        ``mlflow-skinny``, which ``anytask[mlflow]`` installs, up to 3.17 at least. A server is ``http://...`` or
        ``https://...``. Databases (``sqlite:///...``) need the full package ``mlflow``.

    Returns
    -------
    list of str
        The MLflow run ids, in the order of ``comparison.runs``.

    Raises
    ------
    ImportError
        If MLflow is not installed.
    ValueError
        If MLflow cannot use the URI.
    """
    name = f"anytask/{comparison.problem.key}/{comparison.data.name}"
    with _client(uri) as client:
        found = client.get_experiment_by_name(name)
        return _write(client, found.experiment_id if found else client.create_experiment(name), comparison)


def check_uri(uri: str) -> None:
    """Raise what :func:`export` would raise for this URI; a server is not asked.

    Raises
    ------
    ImportError
        If MLflow is not installed.
    ValueError
        If MLflow cannot use the URI.
    """
    with _client(uri):
        pass


@contextlib.contextmanager
def _client(uri: str) -> Iterator[MlflowClient]:
    if not uri.strip():
        raise ValueError(f"MLflow cannot use {uri!r}: {_WORKS}")
    with environment(_ENVIRONMENT):
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise ImportError("exporting runs needs MLflow: pip install 'anytask[mlflow]'") from error
        try:
            yield MlflowClient(tracking_uri=uri, registry_uri=uri)
        except (MlflowException, ModuleNotFoundError, OSError) as error:
            message = (str(error).splitlines() or [""])[0]
            raise ValueError(f"MLflow cannot use {uri!r} ({_WORKS}): {message}") from error


def _write(client: MlflowClient, experiment: str, comparison: Results) -> list[str]:
    from mlflow.entities import Metric, Param, RunTag

    ids = []
    for run in comparison.runs:
        started, ended = _milliseconds(run.started), _milliseconds(run.finished)
        label = f"{run.entrant_name} (seed {run.seed})"
        created = client.create_run(experiment, start_time=started, run_name=label)
        params = {"entry": run.entry, "seed": run.seed, **run.params}
        params |= {f"option.{key}": value for key, value in run.settings.items()}
        tags = {
            "problem": run.problem,
            "data": run.data_name,
            "data_fingerprint": run.data_fingerprint,
            "entrant": run.entrant_name,
            "role": run.role,
            "system": run.system,
            "sees": run.sees,
            "language_model": run.kind,
            "key": run.key,
            "error": f"{run.error['type']}: {run.error['message']}" if run.error else None,
            **{f"version.{key}": value for key, value in run.versions.items()},
        }
        values = run.metrics | {f"cost.{key}": value for key, value in run.cost.items()}
        client.log_batch(
            created.info.run_id,
            metrics=[Metric(k, float(v), ended, 0) for k, v in values.items() if v is not None and v == v],
            params=[Param(key, _text(value)[:500]) for key, value in params.items()],
            tags=[RunTag(key, _text(value)[:5000]) for key, value in tags.items() if value is not None],
        )
        client.set_terminated(created.info.run_id, "FINISHED" if run.status == "done" else "FAILED", ended)
        ids.append(created.info.run_id)
    whole = client.create_run(experiment, run_name="comparison", tags={"headline": headline(comparison)[:5000]})
    with scratch_folder("anytask-") as folder:
        path = folder / "report.html"
        write_report(comparison, path)
        client.log_artifact(whole.info.run_id, str(path))
    client.set_terminated(whole.info.run_id)
    return ids


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
