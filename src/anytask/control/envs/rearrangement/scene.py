"""What a rearrangement world is made of: robots, stages of boxes, movable boxes, and lists of episodes.

A point is (x, y, z) in metres with y upwards and the floor at 0. A robot with yaw 0 looks along x and turns towards -z.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Point = tuple[float, float, float]
Box = tuple[Point, Point]  # center and half extents
_LISTED = ("start", "target", "goal", "objects", "stage")  # what a list of episodes holds


@dataclass(frozen=True)
class Joint:
    """A joint: where it sits on the link before it, the local axis it turns about or slides along, and its limits."""

    offset: Point
    axis: int  # 0, 1 or 2: the local x, y or z
    low: float
    high: float
    step: float  # most change per step, in radians or metres
    start: float = 0.0
    sign: float = 1.0
    slides: bool = False


@dataclass(frozen=True)
class Robot:
    """A base that drives and turns, a chain of joints with a gripper at its end, and spheres for its body.

    ``spheres`` are (link, centre in the link's frame, radius), where link 0 is the base and link k the one behind joint
    k; their radii come from ``radii``, the working set. The spheres of the last link touch movable objects freely.
    ``gripper`` is the grasping sphere's centre in the frame of the last link. Actions are grasp, yaw, forward, the
    joints and, with ``stops``, stop. A ``planar`` robot senses points in the ground plane only.
    """

    name: str
    joints: tuple[Joint, ...]
    spheres: tuple[tuple[int, Point, float], ...]
    radii: tuple[float, ...]
    gripper: Point
    gripper_radius: float
    yaw_step: float
    forward_step: float
    camera: Point
    ray_height: float
    stops: bool = True
    planar: bool = False

    @property
    def action_dim(self) -> int:
        """Length of an action."""
        return 3 + len(self.joints) + self.stops

    @property
    def discrete_actions(self) -> dict[int, tuple[float, ...]]:
        """Columns that take a few values, with these: release, keep or grasp; go on or stop."""
        stop = {self.action_dim - 1: (-1.0, 1.0)} if self.stops else {}
        return {0: (-1.0, 0.0, 1.0), **stop}


def _fetch() -> Robot:
    step, pi = 0.196, math.pi
    joints = (
        Joint((0.033, 0.726, 0.0), 1, -1.6056, 1.6056, step, -0.45),  # shoulder pan
        Joint((0.117, 0.06, 0.0), 2, -1.221, 1.518, step, -1.08, sign=-1.0),  # shoulder lift
        Joint((0.219, 0.0, 0.0), 0, -pi, pi, step, 0.1),  # upper arm roll
        Joint((0.133, 0.0, 0.0), 2, -2.251, 2.251, step, 0.935, sign=-1.0),  # elbow flex
        Joint((0.197, 0.0, 0.0), 0, -pi, pi, step, -0.001),  # forearm roll
        Joint((0.1245, 0.0, 0.0), 2, -2.16, 2.16, 0.262, 1.573, sign=-1.0),  # wrist flex
        Joint((0.1385, 0.0, 0.0), 0, -pi, pi, step, 0.005),  # wrist roll
    )
    big, arm, finger = 0.12, 0.05, 0.015
    ring = [(0, (0.15 * math.cos(a), 0.125, 0.15 * math.sin(a)), big) for a in np.arange(6) * pi / 3]
    column = [(0, (0.0, 0.125, 0.0), big)] + [(0, (-0.087, h, 0.0), big) for h in (0.35, 0.52, 0.69, 0.86, 1.03)]
    limbs = [(2, (d, 0.0, 0.0), arm) for d in (0.06, 0.13, 0.2)]
    limbs += [(3, (d, 0.0, 0.0), arm) for d in (0.05, 0.11)] + [(4, (d, 0.0, 0.0), arm) for d in (0.05, 0.11, 0.17)]
    limbs += [(5, (d, 0.0, 0.0), arm) for d in (0.04, 0.1)] + [(6, (d, 0.0, 0.0), arm) for d in (0.04, 0.1)]
    hand = [(7, (0.06, 0.0, 0.0), arm), (7, (0.12, 0.0, 0.0), arm)]
    hand += [(7, (0.17, 0.0, s), finger) for s in (-0.04, 0.0, 0.04)]
    return Robot(
        name="fetch",
        joints=joints,
        spheres=tuple(ring + column + limbs + hand),
        radii=(finger, arm, big),
        gripper=(0.16645 + 0.03, 0.0, 0.0),
        gripper_radius=finger,
        yaw_step=0.0873,
        forward_step=0.1,
        camera=(0.1, 1.1, 0.0),
        ray_height=0.125,
    )


def _disc() -> Robot:
    return Robot(
        name="disc",
        joints=(Joint((0.0, 0.1, 0.0), 0, 0.2, 0.5, 0.1, 0.2, slides=True),),
        spheres=((0, (0.0, 0.15, 0.0), 0.15), (1, (0.0, 0.0, 0.0), 0.03)),
        radii=(0.03, 0.05, 0.15),
        gripper=(0.0, 0.0, 0.0),
        gripper_radius=0.05,
        yaw_step=0.4,
        forward_step=0.1,
        camera=(0.0, 0.3, 0.0),
        ray_height=0.08,
        stops=False,
        planar=True,
    )


#: The built-in robots: a Fetch with seven arm joints, and a disc with a telescopic gripper.
ROBOTS: Mapping[str, Robot] = {"fetch": _fetch(), "disc": _disc()}


@dataclass(frozen=True)
class Stage:
    """What does not move: the bounds ((x0, z0), (x1, z1)) of the floor, solid outside, and boxes (centre, half)."""

    bounds: tuple[tuple[float, float], tuple[float, float]]
    boxes: Sequence[Box] = ()
    name: str = "stage"

    def __post_init__(self) -> None:
        bounds = np.asarray(self.bounds, float)
        if bounds.shape != (2, 2) or not np.isfinite(bounds).all() or not (bounds[1] > bounds[0]).all():
            raise ValueError(f"bounds of {self.name} must be ((x0, z0), (x1, z1)) with x0 < x1 and z0 < z1")
        for number, box in enumerate(self.boxes):
            _check_box(box, f"box {number} of {self.name}")


@dataclass(frozen=True)
class Movable:
    """A box that can be picked up, standing at ``position`` (its centre) unless an episode says otherwise."""

    name: str
    half: Point
    position: Point = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class EpisodeList:
    """A list of E episodes in arrays: where the robot starts, what to fetch, and where it goes.

    ``start`` (E, 3) is x, z, yaw; ``target`` (E,) the number of a movable box; ``goal`` (E, 3) a point for its centre;
    ``objects`` (E, B, 3) the centres of all movable boxes; ``stage`` (E,) the number of the stage.
    """

    start: np.ndarray
    target: np.ndarray
    goal: np.ndarray
    objects: np.ndarray
    stage: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: Any) -> EpisodeList:
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return EpisodeList(*(getattr(self, name)[rows] for name in _LISTED))

    @classmethod
    def joined(cls, lists: Sequence[EpisodeList]) -> EpisodeList:
        """Return one list of several."""
        return cls(*(np.concatenate([getattr(e, name) for e in lists]) for name in _LISTED))


@dataclass(frozen=True)
class Scene:
    """Stages, movable boxes and, where they are given, episodes."""

    stages: Sequence[Stage]
    objects: Sequence[Movable]
    episodes: EpisodeList | None = None
    name: str = "scene"
    #: Where sampled objects and goals stand: on the floor (0), or on the tops of boxes up to this height, in metres.
    highest_surface: float = 0.0

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"{self.name} has no stage")
        if not self.objects:
            raise ValueError(f"{self.name} has no movable object")
        for thing in self.objects:
            if len(thing.half) != 3 or not min(thing.half) > 0:
                raise ValueError(f"object {thing.name} needs three positive half extents, got {thing.half}")

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any]) -> Scene:
        """Read a scene from a JSON file or the same as a dictionary.

        The keys are ``bounds`` and ``boxes`` (each ``{"center": [x, y, z], "half": [x, y, z]}``) or, for several,
        ``stages`` = ``{name: {"bounds": ..., "boxes": ...}}``; ``objects``, each ``{"name", "half", "position"}``; and
        by choice ``episodes``, each ``{"start": [x, z, yaw], "target": name or number, "goal": [x, y, z]}`` with
        ``"stage": name`` where there are several and ``"objects": {name: position}`` for those that stand elsewhere.

        Raises
        ------
        ValueError
            If something is missing or of the wrong form; the message names the place.
        """
        where, data = "the scene", source
        if not isinstance(source, Mapping):
            where = str(source)
            try:
                data = json.loads(Path(source).read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{where} is not JSON: {error}") from None
        if not isinstance(data, Mapping):
            raise ValueError(f"{where} must hold a JSON object, not a {type(data).__name__}")
        known = {"bounds", "boxes", "stages", "objects", "episodes", "name", "highest_surface"}
        if unknown := set(data) - known:
            raise ValueError(f"{where}: unknown key {min(unknown)!r}; known are {', '.join(sorted(known))}")
        stages = [_stage(name, value, where) for name, value in data.get("stages", {"stage": data}).items()]
        objects = []
        for i, thing in enumerate(data.get("objects", ())):
            half, position = (
                _vector(thing.get(key, default), 3, f"{where}: object {i}: {key}")
                for key, default in (("half", None), ("position", (0.0, 0.0, 0.0)))
            )
            objects.append(Movable(str(thing.get("name", i)), half, position))
        name = str(data.get("name", where if isinstance(source, Mapping) else Path(where).stem))
        scene = cls(stages, objects, None, name, float(data.get("highest_surface", 0.0)))
        return replace(scene, episodes=_episodes(data["episodes"], scene, where)) if "episodes" in data else scene

    def as_dict(self) -> dict[str, Any]:
        """Return the scene in the form that :meth:`read` takes."""
        stages = {}
        for s in self.stages:
            boxes = [{"center": np.array(c).tolist(), "half": np.array(h).tolist()} for c, h in s.boxes]
            stages[s.name] = {"bounds": np.array(s.bounds, float).tolist(), "boxes": boxes}
        objects = [{"name": o.name, "half": list(o.half), "position": list(o.position)} for o in self.objects]
        data = {"name": self.name, "highest_surface": self.highest_surface, "stages": stages, "objects": objects}
        if (e := self.episodes) is not None:
            names = [o.name for o in self.objects]
            data["episodes"] = [
                {"start": start, "target": names[target], "goal": goal, "objects": dict(zip(names, places)),
                 "stage": self.stages[stage].name}
                for start, target, goal, places, stage in zip(*(getattr(e, name).tolist() for name in _LISTED))
            ]  # fmt: skip
        return data

    def write(self, path: str | Path) -> None:
        """Write the scene as a JSON file that :meth:`read` reads."""
        Path(path).write_text(json.dumps(self.as_dict()), encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        """Hash of the content, whatever its name."""
        return hashlib.sha256(json.dumps({**self.as_dict(), "name": ""}).encode()).hexdigest()[:32]


def _check_box(box: Any, where: str) -> None:
    array = np.asarray(box, float)
    if array.shape != (2, 3) or not np.isfinite(array).all() or not (array[1] > 0).all():
        raise ValueError(f"{where} must be a centre and three positive half extents, got {box!r}")


def _vector(value: Any, size: int, where: str) -> Any:
    try:
        array = np.asarray(value, float)
    except (TypeError, ValueError):
        array = np.array([])
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"{where} must be {size} finite numbers, got {value!r}")
    return tuple(array.tolist())


def _stage(name: str, value: Mapping[str, Any], where: str) -> Stage:
    if "bounds" not in value:
        raise ValueError(f"{where}: {name} has no bounds [[x0, z0], [x1, z1]]")
    boxes = [
        tuple(_vector(box.get(key), 3, f"{where}: box {i} of {name}: {key}") for key in ("center", "half"))
        for i, box in enumerate(value.get("boxes", ()))
    ]
    return Stage(value["bounds"], boxes, name)


def _episodes(listed: Any, scene: Scene, where: str) -> EpisodeList:
    if not listed:
        raise ValueError(f"{where}: the list of episodes is empty")
    stages, names, rows = [s.name for s in scene.stages], [o.name for o in scene.objects], []
    for i, episode in enumerate(listed):
        place = f"{where}: episode {i}"
        target, stage = episode.get("target"), episode.get("stage", stages[0])
        if target not in names and not (isinstance(target, int) and 0 <= target < len(names)):
            raise ValueError(f"{place}: target {target!r} is not one of the objects {', '.join(names)}")
        if stage not in stages:
            raise ValueError(f"{place}: stage {stage!r} is not one of {', '.join(stages)}")
        positions = [o.position for o in scene.objects]
        for name, position in episode.get("objects", {}).items():
            if name not in names:
                raise ValueError(f"{place}: {name!r} is not one of the objects {', '.join(names)}")
            positions[names.index(name)] = _vector(position, 3, f"{place}: position of {name}")
        start, goal = (_vector(episode.get(key), 3, f"{place}: {key}") for key in ("start", "goal"))
        number = names.index(target) if target in names else target
        rows.append((start, number, goal, positions, stages.index(stage)))
    kinds = (np.float32, np.int64, np.float32, np.float32, np.int64)
    return EpisodeList(*(np.array(column, kind) for column, kind in zip(zip(*rows), kinds)))


def built_in_scene(name: str) -> Scene:
    """Return ``"arena"`` (3 x 3 m, two walls, one box) or ``"flat"`` (6 x 5 m, a wall, four tables, three boxes)."""
    known = {file.stem: file for file in Path(__file__).parent.glob("*.json")}
    if name not in known:
        raise ValueError(
            f"unknown scene {name!r}; built in are {', '.join(sorted(known))}, or give the path of a JSON file"
        )
    return Scene.read(known[name])
