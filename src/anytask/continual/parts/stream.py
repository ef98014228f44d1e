"""Tools for streams: notice that the loss has shifted, and keep a bounded uniform sample of what was seen."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


class LossShiftDetector:
    """Say when a stream of losses has risen above what its recent past explains.

    The smoothed loss s (exponential moving average) is compared with a threshold from the last ``window`` losses,

        tau = mean(w) + k * max(std(w), floor),

    and s > tau is a shift. The threshold never contains the loss that is being judged. :meth:`update` does it all for
    a single stream of losses; learners that smooth every loss but keep the window for some of them call
    :meth:`smooth`, :attr:`shifted` and :meth:`record` themselves.

    Straight after a jump of size D from a steady level the test fires when ``alpha * D > k * std``. A smaller jump may
    never fire, because the raised losses enter the window and raise the threshold too.

    Parameters
    ----------
    alpha : float in (0, 1], default 0.2
        Weight of the newest loss in the moving average.
    window : int, at least 2, default 100
        How many losses the threshold looks back on.
    k : float, positive, default 3.0
        Standard deviations above the mean that count as a shift.
    floor : float, at least 0, default 0.005
        Smallest standard deviation assumed, so that a flat stream does not raise alarms over rounding.
    initial : float, optional
        A loss the window starts with, such as ln C for a classifier that guesses among C classes. Without it no shift
        is reported before two losses have been seen.

    Attributes
    ----------
    ema : float or None
        The smoothed loss s; ``None`` before the first loss.
    losses : deque of float
        The window w.

    Raises
    ------
    ValueError
        For a parameter out of range, or a loss that is NaN or infinite: a diverged loss is not "no shift".

    Examples
    --------
    The loss wobbles around 0.5 and jumps to 2.0 at observation 30:

    >>> import math
    >>> detector = LossShiftDetector(window=20, initial=math.log(3))
    >>> losses = [0.5 + 0.1 * math.cos(i) for i in range(30)] + [2.0] * 5
    >>> [i for i, loss in enumerate(losses) if detector.update(loss)][0]
    30

    References
    ----------
    H. Zhu, M. Majzoubi, A. Jain, A. Choromanska. TAME: Task Agnostic Continual Learning using Multiple Experts.
    2022, arXiv:2210.03869.
    """

    def __init__(
        self, alpha: float = 0.2, window: int = 100, k: float = 3.0, floor: float = 0.005, initial: float | None = None
    ) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {alpha!r}")
        if window < 2:
            raise ValueError(f"window must be at least 2 (a standard deviation needs two losses), got {window!r}")
        if k <= 0 or floor < 0:
            raise ValueError(f"k must be positive and floor at least 0, got k={k!r} and floor={floor!r}")
        self.alpha, self.k, self.floor = alpha, k, floor
        self.losses: deque[float] = deque([] if initial is None else [float(initial)], maxlen=int(window))
        self.ema: float | None = None
        self._enough = 2 if initial is None else 1

    def smooth(self, loss: float) -> None:
        """Take ``loss`` into the moving average."""
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss}: it must be finite")
        self.ema = loss if self.ema is None else self.alpha * loss + (1 - self.alpha) * self.ema

    def record(self, loss: float) -> None:
        """Take ``loss`` into the window."""
        self.losses.append(float(loss))

    @property
    def threshold(self) -> float:
        """The threshold tau; infinite while the window holds too little."""
        if len(self.losses) < self._enough:
            return math.inf
        w = np.array(self.losses)
        return float(w.mean() + self.k * max(w.std(), self.floor))

    @property
    def shifted(self) -> bool:
        """Whether the smoothed loss is above the threshold."""
        return self.ema is not None and self.ema > self.threshold

    def update(self, loss: float) -> bool:
        """Take in the next loss and return whether the stream has shifted."""
        self.smooth(loss)
        shifted = self.shifted
        self.record(loss)
        return shifted

    def __snapshot__(self) -> Callable[[], None]:
        ema, losses = self.ema, self.losses.copy()

        def undo() -> None:
            self.ema, self.losses = ema, losses

        return undo

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to go on from here."""
        return {"ema": self.ema, "losses": self.losses.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was called."""
        self.ema, self.losses = state["ema"], state["losses"].copy()


class Reservoir:
    """Keep a uniform sample, without replacement, of the distinct items of a stream of unknown length.

    Every item gets a priority, uniform on the 63-bit integers, and those with the largest priorities are kept in a
    heap. The priority is a hash of the item's key under a secret made of ``seed``. So an item that comes again (a
    second pass over the data) has the priority it had, and is either there already or too small again: each item
    enters at most once, at first sight, and no list of everything ever seen is needed. What is kept does not depend on
    how the stream was cut into chunks.

    Parameters
    ----------
    capacity : int or None
        Most items kept; ``None`` keeps every distinct item.
    seed : int
        Two reservoirs of different seeds keep independent samples.
    balanced : bool, default False
        Keep one heap of ``capacity // n_groups`` items per group (such as a class), and shrink the heaps when a new
        group appears.

    Raises
    ------
    ValueError
        For a capacity below 1, or fewer places than groups.

    Examples
    --------
    Three passes over 1000 rows leave 5 different ones:

    >>> reservoir = Reservoir(5, seed=0)
    >>> X = torch.arange(1000.0)[:, None]
    >>> for _ in range(3):
    ...     _ = reservoir.add(X, torch.zeros(1000, dtype=torch.long))
    >>> rows, tags = reservoir.data()
    >>> len(reservoir), len(rows.unique())
    (5, 5)
    """

    def __init__(self, capacity: int | None, seed: int, balanced: bool = False) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity!r}")
        self.capacity, self.balanced = capacity, balanced
        self._secret = hashlib.blake2b(str(int(seed)).encode(), digest_size=16).digest()
        self._heaps: dict[int, list[tuple[int, Tensor, int]]] = {}  # group -> heap of (priority, row, tag)
        self._kept: set[int] = set()

    def add(self, X: Tensor, tags: Tensor, groups: Tensor | None = None, keys: Sequence[bytes] | None = None) -> int:
        """Offer items to the sample and return how many were taken in.

        Parameters
        ----------
        X : tensor of shape (n, ...)
            The items; those taken in are copied to the CPU.
        tags : integer tensor of shape (n,)
            What is kept beside each item, such as its label; a later tag of the same item is ignored.
        groups : integer tensor of shape (n,), optional
            The group of each item, for ``balanced=True``.
        keys : sequence of n bytes objects, optional
            What makes an item the same item; by default its content (:func:`content_keys`).
        """
        if self.balanced and groups is None:
            raise ValueError("a balanced reservoir needs groups, one per item")
        keys = content_keys(X) if keys is None else keys
        group_of = groups.tolist() if self.balanced and groups is not None else [0] * len(X)
        taken = 0
        for i, (key, group, tag) in enumerate(zip(keys, group_of, tags.tolist(), strict=True)):
            digest = hashlib.blake2b(key, digest_size=8, key=self._secret).digest()
            priority = int.from_bytes(digest, "big") >> 1
            if priority in self._kept:
                continue
            if group not in self._heaps:
                self._heaps[group] = []
                self._shrink()
            heap, quota = self._heaps[group], self._quota
            if quota is None or len(heap) < quota:
                heapq.heappush(heap, (priority, X[i].detach().cpu().clone(), tag))
            elif priority > heap[0][0]:
                out = heapq.heapreplace(heap, (priority, X[i].detach().cpu().clone(), tag))
                self._kept.discard(out[0])
            else:
                continue
            self._kept.add(priority)
            taken += 1
        return taken

    @property
    def _quota(self) -> int | None:
        return None if self.capacity is None else self.capacity // max(1, len(self._heaps))

    def _shrink(self) -> None:
        quota = self._quota
        if quota == 0:
            raise ValueError(
                f"a reservoir of {self.capacity} cannot hold one item of each of {len(self._heaps)} groups"
            )
        for heap in self._heaps.values():
            while quota is not None and len(heap) > quota:
                self._kept.discard(heapq.heappop(heap)[0])

    def __len__(self) -> int:
        return len(self._kept)

    def data(self) -> tuple[Tensor, Tensor]:
        """Return the kept items (len, ...) and their tags (len,), in an order that depends on the sample alone."""
        return self._stacked(sorted(self._entries(), key=lambda e: e[0]))

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``n`` of the kept items, all different (all of them if there are fewer), and their tags."""
        entries = self._entries()
        return self._stacked([entries[i] for i in torch.randperm(len(entries), generator=generator)[:n].tolist()])

    def _entries(self) -> list[tuple[int, Tensor, int]]:
        return [entry for heap in self._heaps.values() for entry in heap]

    def _stacked(self, entries: list[tuple[int, Tensor, int]]) -> tuple[Tensor, Tensor]:
        if not entries:
            raise ValueError("the reservoir is empty")
        _, rows, tags = zip(*entries, strict=True)
        return torch.stack(rows), torch.tensor(tags)

    def clear(self) -> None:
        """Forget everything."""
        self._heaps, self._kept = {}, set()

    def __snapshot__(self) -> Callable[[], None]:
        # Entries never change, so copies of the lists are enough.
        heaps, kept = {group: list(heap) for group, heap in self._heaps.items()}, set(self._kept)

        def undo() -> None:
            self._heaps, self._kept = heaps, kept

        return undo

    def state_dict(self) -> dict[str, Any]:
        """Return the content as tensors, for :meth:`load_state_dict`."""
        if not self._kept:
            return {}
        groups = [group for group, heap in self._heaps.items() for _ in heap]
        rows, tags = self._stacked(self._entries())
        priorities = torch.tensor([entry[0] for entry in self._entries()])
        return {"groups": torch.tensor(groups), "priorities": priorities, "rows": rows, "tags": tags}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.clear()
        if not state:
            return
        columns = [state["groups"].tolist(), state["priorities"].tolist(), state["rows"].cpu(), state["tags"].tolist()]
        for group, priority, row, tag in zip(*columns, strict=True):
            self._heaps.setdefault(group, []).append((priority, row.clone(), tag))  # heap order was kept
            self._kept.add(priority)


def content_keys(X: Tensor, tags: ArrayLike | Tensor | None = None) -> list[bytes]:
    """Return one key per row of ``X`` that depends on its values (and its tag), and on nothing else.

    Examples
    --------
    >>> a, b, c = content_keys(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]]))
    >>> a == b, a == c
    (True, False)
    """
    rows = (X.detach().cpu() + 0.0).flatten(1).numpy()  # adding 0 turns -0 into 0
    if tags is None:
        return [row.tobytes() for row in rows]
    marks = np.asarray(tags.cpu() if isinstance(tags, Tensor) else tags).tolist()
    return [row.tobytes() + str(mark).encode() for row, mark in zip(rows, marks, strict=True)]
