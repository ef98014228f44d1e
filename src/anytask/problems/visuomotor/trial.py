"""What a policy is worth after each of its stages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from anytask.problems.base import Entrant, Outcome
from anytask.problems.training import own_cost


class Trial:
    """What one entrant's settings come to, stage by stage, on a policy that entrants may share."""

    def __init__(self, entrant: Entrant, policy: Any, world: Any, data: Any, seed: int) -> None:
        self.entrant, self.policy, self.world, self.data, self.seed = entrant, policy, world, data, seed
        self.results: dict[str, float] = {}  # by stage
        self.played, self.seconds = 0, 0.0

    def after(self, stage: str, played: int) -> None:
        """Try the policy out after a stage, for which so many episodes have been played."""
        from anytask.control import evaluate

        start = time.perf_counter()
        with self.entrant.applied_to(self.policy):
            results = evaluate(self.policy, self.world, self.data.options.eval_episodes, seed=self.seed)
        self.results[stage] = results.success_rate if self.data.tells_success else float(results.returns.mean())
        self.played = max(self.played, played)
        self.seconds += time.perf_counter() - start

    def outcome(self, film: bool) -> Outcome:
        """Return what is reported, with a film strip if it is asked for."""
        policy, measure = self.policy, "success" if self.data.tells_success else "return"
        gate = getattr(policy, "gate_log_", [])
        with self.entrant.applied_to(policy):
            metrics = self._metrics(measure)
            details: dict[str, Any] = {"stages": self.results, "measure": measure, "gate": [list(c) for c in gate]}
            details["online"] = getattr(policy, "online_log_", [])
            if film:
                details["filmstrip"] = self._film()
            cost = own_cost(policy)
        if gate:
            metrics["accepted"] = float(np.mean([check.accepted for check in gate]))
        return Outcome(metrics, details, {"predict_seconds": self.seconds} | cost)

    def _metrics(self, measure: str) -> dict[str, float]:
        policy, results = self.policy, self.results
        out = {f"{measure}_{stage}": value for stage, value in results.items()}
        out[measure] = list(results.values())[-1]
        out["episodes"] = float(self.played)
        if "offline" in results:
            out["offline_gain"] = results["offline"] - results["imitation"]
        if "student" in results:
            teacher = next(results[stage] for stage in ("online", "offline", "imitation") if stage in results)
            out["student_gap"] = teacher - results["student"]
        if hasattr(policy, "network_calls"):
            out["network_calls"] = float(policy.network_calls)
            if "student" in results:
                policy.use = "teacher"
                out["call_share"] = out["network_calls"] / float(policy.network_calls)
                policy.use = "student"
        return out | {"frequency": self._frequency()}

    def _frequency(self, actions: int = 64) -> float:
        """Return actions per second in one environment."""
        obs, _ = self.world.reset(seed=0)
        one = {k: v[:1] for k, v in obs.items()} if isinstance(obs, Mapping) else obs[:1]
        self.policy.reset()
        for _ in range(8):
            self.policy.act(one)
        start = time.perf_counter()
        for _ in range(actions):
            self.policy.act(one)
        taken = time.perf_counter() - start
        self.policy.reset()
        return actions / taken

    def _film(self) -> str:
        from anytask.control import record
        from anytask.control.images import as_text

        film = record(self.policy, self.data.env, seed=self.seed, **self.data.env_options)
        return as_text(film.filmstrip(7, height=110))
