"""Settings: attrs fields with a range or a choice and a help text, on scikit-learn's parameter protocol.

A class of settings lists its fields, and has a keyword-only constructor that checks them, ``get_params``,
``set_params`` and ``clone``; ``anytask show`` and the docs read ranges and help from the fields.
"""

from __future__ import annotations

import copy
import inspect
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Self, TypedDict, Unpack, dataclass_transform

import attrs
import numpy as np
from sklearn.base import BaseEstimator

from anytask.core.errors import shown

_LARGEST = float(np.finfo(np.float32).max)


class Bounds(TypedDict, total=False):
    """The ends of a range: open (``above``, ``below``) or closed."""

    above: float | None
    at_least: float | None
    below: float | None
    at_most: float | None


def real(
    default: float | str | None,
    help: str,
    *,
    optional: bool = False,
    words: Sequence[str] = (),
    **bounds: Unpack[Bounds],
) -> Any:
    """Return a field for a finite number in a range.

    Parameters
    ----------
    default : float
    help : str
        What the value does, in a few words.
    optional : bool
        Whether ``None`` is a value too; the help says what it means.
    words : sequence of str
        Words that stand for a number; the help says for which.
    above, at_least, below, at_most : float, optional
        The range: open or closed ends.

    Examples
    --------
    >>> class Sgd(Settings):
    ...     lr: float = real(0.1, "learning rate", above=0)
    >>> Sgd(lr=0)
    Traceback (most recent call last):
        ...
    ValueError: lr must be a number above 0, got 0
    """
    wanted = "a number" + _range(**bounds)

    def fits(value: Any) -> bool:
        return _is_word(value, words) or (_is_real(value) and _within(value, **bounds))

    return _field(default, help, wanted + _or(words), fits, optional)


def whole(
    default: int | str | None,
    help: str,
    *,
    at_least: int | None = 1,
    at_most: int | None = None,
    optional: bool = False,
    words: Sequence[str] = (),
) -> Any:
    """Return a field for an integer in a range (at least 1 unless told otherwise), or one of a few ``words``.

    Examples
    --------
    >>> class Prompts(Settings):
    ...     k: int | str = whole("max", "demonstrations, 'max': all that fit", at_least=0, words=("max",))
    >>> Prompts(k="all")
    Traceback (most recent call last):
        ...
    ValueError: k must be an integer of at least 0 or 'max', got 'all'
    """
    bounds: Bounds = {"at_least": at_least, "at_most": at_most}
    wanted = "an integer" + _range(**bounds)

    def fits(value: Any) -> bool:
        return _is_word(value, words) or (_is_whole(value) and _within(value, **bounds))

    return _field(default, help, wanted + _or(words), fits, optional)


def numbers(
    default: Sequence[float] | None,
    help: str,
    *,
    integers: bool = False,
    length: int | None = None,
    optional: bool = False,
    **bounds: Unpack[Bounds],
) -> Any:
    """Return a field for a sequence of numbers, each in a range, such as the hidden widths of a network.

    Examples
    --------
    >>> class Net(Settings):
    ...     hidden: Sequence[int] = numbers((64, 64), "hidden widths", at_least=1, integers=True)
    >>> Net(hidden=[32, 0])
    Traceback (most recent call last):
        ...
    ValueError: hidden must be a sequence of integers of at least 1, got [32, 0]
    """
    kind = ("integers" if integers else "numbers") + _range(**bounds)
    wanted = f"a sequence of {'' if length is None else f'{length} '}{kind}"
    is_number = _is_whole if integers else _is_real

    def fits(value: Any) -> bool:
        return (
            isinstance(value, (Sequence, np.ndarray))
            and not isinstance(value, (str, bytes))
            and (length is None or len(value) == length)
            and all(is_number(v) and _within(v, **bounds) for v in value)
        )

    return _field(default, help, wanted, fits, optional)


def choice(default: str | None, options: Sequence[str], help: str, *, optional: bool = False) -> Any:
    """Return a field for one of a few words."""
    options = tuple(options)

    def fits(value: Any) -> bool:
        return isinstance(value, str) and value in options

    return _field(default, help, "one of " + ", ".join(map(repr, options)), fits, optional)


def flag(default: bool | str | None, help: str, *, optional: bool = False, words: Sequence[str] = ()) -> Any:
    """Return a field for True or False, or one of a few ``words``."""

    def fits(value: Any) -> bool:
        return isinstance(value, (bool, np.bool_)) or _is_word(value, words)

    return _field(default, help, "True or False" + _or(words), fits, optional)


def text(default: str | None, help: str, *, optional: bool = False) -> Any:
    """Return a field for a string that is not empty."""
    return _field(default, help, "a string", lambda value: isinstance(value, str) and value != "", optional)


def texts(
    default: Sequence[str] | None,
    help: str,
    *,
    options: Sequence[str] = (),
    at_least: int = 0,
    at_most: int | None = None,
    distinct: bool = False,
    optional: bool = False,
) -> Any:
    """Return a field for a sequence of strings that are not empty, out of ``options`` where these are given.

    Arrays and columns of tables become lists.

    Parameters
    ----------
    default : sequence of str
    help : str
    options : sequence of str
        The strings that there are; any if empty.
    at_least, at_most : int
        How many there may be.
    distinct : bool
        Whether all have to be different.
    optional : bool
        Whether ``None`` is a value too; the help says what it means.

    Examples
    --------
    >>> class Task(Settings):
    ...     labels: Sequence[str] = texts(("good", "bad"), "the answers", at_least=2, distinct=True)
    >>> Task(labels="good")
    Traceback (most recent call last):
        ...
    ValueError: labels must be a sequence of different strings, at least 2, got 'good'
    """
    wanted = f"a sequence of {'different ' if distinct else ''}strings"
    wanted += " out of " + ", ".join(map(repr, options)) if options else ""
    ends = [f"at least {at_least}"] * bool(at_least) + [f"at most {at_most}"] * (at_most is not None)
    wanted += ", " + " and ".join(ends) if ends else ""

    def fits(value: Any) -> bool:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(isinstance(one, str) and one != "" and (not options or one in options) for one in value)
            and at_least <= len(value)
            and (at_most is None or len(value) <= at_most)
            and (not distinct or len(set(value)) == len(value))
        )

    return _field(default, help, wanted, fits, optional, _listed)


def free(default: Any, help: str, check: Callable[[Any], object] | None = None) -> Any:
    """Return a field of any kind, such as a module or a name out of several registries.

    Parameters
    ----------
    default : any
        ``attrs.NOTHING`` for a value that has to be given.
    help : str
    check : callable, optional
        Called with the value at construction; raises ``ValueError`` or ``TypeError`` for one that cannot be used.
        The message should name the parameter.
    """
    validator = [] if check is None else [lambda _instance, _attribute, value: check(value)]
    return attrs.field(default=default, validator=validator, metadata={"help": help, "wanted": ""})


def of_kind(default: Any, kinds: tuple[Any, ...], wanted: str, help: str, *, optional: bool = False) -> Any:
    """Return a field for objects of some kinds, such as a module, the name of one, or a function that makes one.

    Parameters
    ----------
    default : any
        ``attrs.NOTHING`` for a value that has to be given.
    kinds : tuple of type or protocol
        What is taken (``collections.abc.Callable`` for functions); strings must not be empty.
    wanted : str
        The same in words.
    help : str
    optional : bool
        Whether ``None`` is a value too; the help says what it means.

    Examples
    --------
    >>> class Method(Settings):
    ...     backbone: object = of_kind("mlp", (str, Callable), "a name or a callable", "maps inputs to features")
    >>> Method(backbone=3)
    Traceback (most recent call last):
        ...
    ValueError: backbone must be a name or a callable, got 3
    """

    def fits(value: Any) -> bool:
        return isinstance(value, kinds) and not isinstance(value, bytes) and not (isinstance(value, str) and not value)

    return _field(default, help, wanted, fits, optional)


def path(default: str | os.PathLike[str] | None, help: str, *, optional: bool = False) -> Any:
    """Return a field for the name of a file or folder."""
    return of_kind(default, (str, os.PathLike), "the name of a file or folder", help, optional=optional)


def group(cls: type[Settings], help: str) -> Any:
    """Return a field that holds settings of another class, given as an object or as a mapping of its values.

    Examples
    --------
    >>> class Sgd(Settings):
    ...     lr: float = real(0.1, "learning rate", above=0)
    >>> class Model(Settings):
    ...     sgd: Sgd = group(Sgd, "the optimizer")
    >>> Model(sgd={"lr": 0.5}).sgd.lr, Model().set_params(sgd__lr=0.2).sgd.lr
    (0.5, 0.2)
    """

    known = [field.name for field in attrs.fields(cls)]

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if unknown := [name for name in value if name not in known]:
            raise TypeError(f"{cls.__name__} has no setting {shown(unknown[0])}: it has {', '.join(known)}")
        return cls(**value)

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, cls):
            article = "an" if cls.__name__[0] in "AEIOU" else "a"
            wanted = f"{article} {cls.__name__} or a mapping of its values"
            raise TypeError(f"{attribute.name} must be {wanted}, got {shown(value)}")

    return attrs.field(
        factory=cls, converter=convert, validator=check, metadata={"help": help, "wanted": cls.__name__, "group": cls}
    )


def positional(kind: Callable[..., Any], *how: Any, kw_only: bool, default: Any = attrs.NOTHING, **options: Any) -> Any:
    """Return a field that may be given by its place too, such as the language model of a method for language models.

    Parameters
    ----------
    kind : callable
        :func:`free` or another function of this module.
    *how, **options
        What ``kind`` takes after the default.
    kw_only : bool
        False. Editors and type checkers, which do not run the code, look for it where the field is written.
    default : any
        Left out where the value has to be given.

    Examples
    --------
    >>> class Method(Settings):
    ...     lm: str = positional(free, "the language model", kw_only=False)
    ...     k: int = positional(whole, "demonstrations", default=8, kw_only=False)
    >>> Method("tiny"), Method("tiny", 4)
    (Method(lm='tiny'), Method(k=4, lm='tiny'))
    """
    field = kind(default, *how, **options)
    field.kw_only = kw_only
    return field


# To a checker, all fields but those of `positional` are what they look like: a keyword with the default on their right.
@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(positional,))
class Settings(BaseEstimator):
    """Base of every class with settings: its fields become a keyword-only constructor that checks each value.

    A subclass lists fields made by :func:`real`, :func:`whole`, ...; names annotated without one of these stay plain
    annotations, and an inherited field's name with a plain value gives that field another default. Checks across fields
    go into :meth:`_check_settings`. Values set later, by ``set_params`` or by assignment, are checked as at
    construction.

    Examples
    --------
    >>> class Sgd(Settings):
    ...     lr: float = real(0.1, "learning rate", above=0)
    ...     nesterov: bool = flag(False, "look ahead")
    >>> Sgd(nesterov=True)
    Sgd(nesterov=True)
    >>> Sgd().set_params(lr=-1)
    Traceback (most recent call last):
        ...
    ValueError: lr must be a number above 0, got -1
    >>> class FastSgd(Sgd):
    ...     lr = 1.0
    >>> FastSgd().lr, Sgd().lr
    (1.0, 0.1)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: value for name, value in vars(cls).items() if type(value).__name__ == "_CountingAttr"}
        inherited = {f.name: f for base in reversed(cls.__mro__[1:]) if attrs.has(base) for f in attrs.fields(base)}
        for name in [name for name in vars(cls) if name in inherited and name not in own]:  # another default
            kept = {part: getattr(inherited[name], part) for part in ("validator", "converter", "metadata", "kw_only")}
            own[name] = attrs.field(default=vars(cls)[name], **kept)
        attrs.define(cls, these=own, kw_only=True, eq=False, slots=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._check_settings()

    def _check_settings(self) -> None:
        """Raise a ``ValueError`` for settings that do not go together."""

    def set_params(self, **params: Any) -> Self:
        """Set parameters, nested ones as ``group__name``; when one is refused, none is changed."""
        before = {name: copy.copy(v) if isinstance(v, Settings) else v for name, v in vars(self).items()}
        try:
            super().set_params(**params)
            self._check_settings()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return self


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments of which ``own`` come first, in groups of settings too.

    Examples
    --------
    >>> merged({"lr": 0.1, "offline": {"steps": 5, "lr": 0.1}}, {"offline": {"lr": 0.2}})
    {'lr': 0.1, 'offline': {'steps': 5, 'lr': 0.2}}
    """
    both = {k: v for k, v in own.items() if isinstance(v, Mapping) and isinstance(base.get(k), Mapping)}
    return {**base, **own, **{k: {**base[k], **v} for k, v in both.items()}}


@attrs.frozen
class Setting:
    """One parameter of a class, as ``anytask show`` and the docs print it."""

    name: str
    default: Any
    wanted: str
    help: str


def settings_of(cls: type) -> list[Setting]:
    """List the parameters of a class with settings, inherited ones too, those of groups as ``group.name``.

    Examples
    --------
    >>> class Sgd(Settings):
    ...     lr: float = real(0.1, "learning rate", above=0)
    >>> settings_of(Sgd)
    [Setting(name='lr', default=0.1, wanted='a number above 0', help='learning rate')]
    """
    found = []
    for field in attrs.fields(cls):
        if inner := field.metadata.get("group"):
            found += [attrs.evolve(s, name=f"{field.name}.{s.name}") for s in settings_of(inner)]
        else:
            meta = field.metadata
            found.append(Setting(field.name, field.default, meta.get("wanted", ""), meta.get("help", "")))
    return found


def _field(
    default: Any, help: str, wanted: str, fits: Callable[[Any], bool], optional: bool, converter: Any = None
) -> Any:
    if optional:
        wanted += ", or None"

    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if not (optional and value is None) and not fits(value):
            raise ValueError(f"{attribute.name} must be {wanted}, got {shown(value)}")

    return attrs.field(default=default, converter=converter, validator=check, metadata={"help": help, "wanted": wanted})


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") and not getattr(value, "is_meta", False) else value


def _is_word(value: Any, words: Sequence[str]) -> bool:
    return isinstance(value, str) and value in words


def _or(words: Sequence[str]) -> str:
    return "".join(f" or {word!r}" for word in words)


def _is_whole(value: Any) -> bool:
    # What arrays and random generators can hold: a larger integer would fail where it is used.
    return isinstance(value, Integral) and not isinstance(value, (bool, np.bool_)) and -(2**63) <= int(value) < 2**63


def _is_real(value: Any) -> bool:
    # Nor one that is infinite in single precision, in which tensors compute.
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) and bool(abs(value) <= _LARGEST)  # type: ignore[operator]


def check_number(value: Any, name: str, **bounds: Unpack[Bounds]) -> float:
    """Return a finite number in a range, or say that it is none; for arguments of functions, which have no fields.

    Examples
    --------
    >>> check_number("fast", "speed", above=0)
    Traceback (most recent call last):
        ...
    ValueError: speed must be a number above 0, got 'fast'
    """
    if not _is_real(value) or not _within(value, **bounds):
        raise ValueError(f"{name} must be a number{_range(**bounds)}, got {shown(value)}")
    return float(value)


def check_whole(value: Any, name: str, **bounds: Unpack[Bounds]) -> int:
    """Return an integer in a range, or say that it is none, as :func:`check_number` does.

    Examples
    --------
    >>> check_whole(True, "epochs", at_least=0)
    Traceback (most recent call last):
        ...
    ValueError: epochs must be an integer of at least 0, got True
    """
    if not _is_whole(value) or not _within(value, **bounds):
        raise ValueError(f"{name} must be an integer{_range(**bounds)}, got {shown(value)}")
    return int(value)


#: Each end of a range: how it is tested, and how it is said.
_ENDS = {
    "above": (operator.gt, "above"), "at_least": (operator.ge, "of at least"),
    "below": (operator.lt, "below"), "at_most": (operator.le, "of at most"),
}  # fmt: skip


def _within(value: Any, **bounds: Unpack[Bounds]) -> bool:
    given: dict[str, Any] = {**bounds}
    return all(end is None or _ENDS[name][0](value, end) for name, end in given.items())


def _range(**bounds: Unpack[Bounds]) -> str:
    given = {name: bounds[name] for name in _ENDS if bounds.get(name) is not None}  # type: ignore[literal-required]
    if set(given) == {"at_least", "at_most"}:
        return f" from {given['at_least']} to {given['at_most']}"
    return " and".join(f" {_ENDS[name][1]} {end}" for name, end in given.items())


def taken(method: Callable[..., Any], **offered: Any) -> dict[str, Any]:
    """Return those of the offered arguments that a method has by name.

    Examples
    --------
    >>> def fit(X, y, progress=None): ...
    >>> taken(fit, progress=print, group=None)
    {'progress': <built-in function print>}
    """
    known = inspect.signature(method).parameters
    return {name: value for name, value in offered.items() if name in known}
