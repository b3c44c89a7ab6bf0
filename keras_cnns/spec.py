"""The vocabulary in which papers' tables are written down: plain data, no Keras.

A spec is a `NamedTuple`, dict or tuple, nested as the paper's table is. `Filters` marks the numbers
that a search may change; everything else is structure.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints

from keras_cnns.errors import UsageError, suggest

Filters = Annotated[int, "filters"]


class Conv(NamedTuple):
    """A convolution: so many filters of a kernel size, every so many strides."""

    filters: Filters
    kernel_size: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "same"


class Pool(NamedTuple):
    """A pooling layer, `kind` "max" or "average"."""

    kind: str
    pool_size: int = 3
    strides: int = 1
    padding: str = "same"


class Branches(tuple):
    """Parallel branches, each a tuple of steps, concatenated; a step may be `Branches` again.

    >>> Branches((Conv(64),), (Conv(96), Conv(128, 3)))[1][0].filters
    96
    """

    def __new__(cls, *branches: Sequence[Any]) -> "Branches":
        """Return these branches, each a sequence of steps."""
        return super().__new__(cls, [tuple(branch) for branch in branches])


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _element(hint: Any, index: int) -> Any:
    """The hint of a tuple's element."""
    if get_origin(hint) is not tuple:
        return None
    args = get_args(hint)
    return args[0] if len(args) == 2 and args[1] is ... else args[index]


def map_filters(change: Callable[[str, int], int], spec: Any) -> Any:
    """Return a copy of a spec with every filter count `n` at `path` replaced by `change(path, n)`.

    Paths are dotted and stable, so that they serve as names of a search's dimensions. A count of
    zero says that the paper has no such layer, and is left alone.

    >>> class Row(NamedTuple):
    ...     filters: Filters
    ...     depth: int
    >>> map_filters(lambda path, n: n // 2, {"conv1": Row(64, 3)})
    {'conv1': Row(filters=32, depth=3)}
    >>> map_filters(lambda path, n: print(path) or n, {"3a": Branches((Conv(64),))})
    3a.0.0.filters
    {'3a': ((Conv(filters=64, kernel_size=1, strides=1, padding='same'),),)}
    """

    def walk(value: Any, path: str, hint: Any) -> Any:
        if hint == Filters:
            return change(path, value) if value else value
        prefix = f"{path}." if path else ""
        if hasattr(value, "_fields"):
            hints = _hints(cast(Hashable, type(value)))
            return type(value)(
                *(walk(v, prefix + k, hints[k]) for k, v in zip(value._fields, value, strict=True))
            )
        if isinstance(value, Mapping):
            return {k: walk(v, f"{prefix}{k}", None) for k, v in value.items()}
        if isinstance(value, tuple):
            items = [walk(v, f"{prefix}{i}", _element(hint, i)) for i, v in enumerate(value)]
            return Branches(*items) if isinstance(value, Branches) else tuple(items)
        return value

    return walk(spec, "", None)


def scale_filters(spec: Any, width: float) -> Any:
    """Return a spec with every filter count times `width`, in multiples of 8 and at least 8.

    >>> scale_filters({"conv1": Conv(96, 11, 4)}, 0.25)["conv1"].filters
    24
    """
    return map_filters(lambda _, n: max(8, 8 * round(n * width / 8)), spec)


def filters(spec: Any) -> dict[str, int]:
    """Return every searchable filter count of a spec by its path.

    >>> filters({"conv1": Conv(96, 11, 4)})
    {'conv1.filters': 96}
    """
    found: dict[str, int] = {}
    map_filters(lambda path, n: found.setdefault(path, n), spec)
    return found


def to_dict(spec: Any) -> Any:
    """Return a spec as dicts, lists and scalars, ready for TOML or JSON.

    >>> to_dict({"pool1": Pool("max", 3, 2)})
    {'pool1': {'kind': 'max', 'pool_size': 3, 'strides': 2, 'padding': 'same'}}
    """
    if hasattr(spec, "_fields"):
        return {k: to_dict(v) for k, v in spec._asdict().items()}
    if isinstance(spec, Mapping):
        return {k: to_dict(v) for k, v in spec.items()}
    if isinstance(spec, tuple):
        return [to_dict(v) for v in spec]
    return spec


def merge(default: Any, changes: Any, path: str = "spec") -> Any:
    """Return `default` with `changes` (dicts, lists, scalars: as read from TOML) laid over it.

    Keys that are not named keep their default. A list replaces a tuple, its items laid over the
    items they replace (the last one, where the list is longer); single items of a tuple are
    reached by their index as a key.

    Raises:
        UsageError: for an unknown key or a value of another type, naming the key.

    >>> merge({"conv1": Conv(96, 11, 4)}, {"conv1": {"filters": 48}})["conv1"].filters
    48
    """
    if isinstance(changes, Branches) or (
        hasattr(changes, "_fields") and isinstance(changes, type(default))
    ):
        return changes
    if hasattr(default, "_fields"):
        known, hints = default._asdict(), _hints(cast(Hashable, type(default)))
        _check_keys(changes, known, path)
        return type(default)(
            **{
                k: _merged_field(hints[k], v, changes[k], f"{path}.{k}") if k in changes else v
                for k, v in known.items()
            }
        )
    if isinstance(default, Mapping):
        _check_keys(changes, default, path)
        return {
            k: merge(v, changes[k], f"{path}.{k}") if k in changes else v
            for k, v in default.items()
        }
    if isinstance(default, tuple):
        if isinstance(changes, Mapping):
            _check_keys(changes, {str(i): v for i, v in enumerate(default)}, path)
            changes = [changes.get(str(i), to_dict(v)) for i, v in enumerate(default)]
        if not isinstance(changes, list | tuple):
            raise UsageError(f"{path}: received {changes!r}, but a list is needed here")
        if default == () and changes:
            raise UsageError(f"{path}: this network has nothing here to change")
        items = [
            merge(default[min(i, len(default) - 1)], v, f"{path}.{i}")
            for i, v in enumerate(changes)
        ]
        return Branches(*items) if isinstance(default, Branches) else tuple(items)
    return _checked(type(default), changes, path)


def _merged_field(hint: Any, default: Any, changes: Any, path: str) -> Any:
    """Merge what is nested; check a number, a word or a choice by the field's own hint."""
    single = type(default) in (bool, int, float, str) or isinstance(hint, UnionType)
    return _checked(hint, changes, path) if single else merge(default, changes, path)


def _check_keys(changes: Any, known: Mapping[str, Any], path: str) -> None:
    if not isinstance(changes, Mapping):
        raise UsageError(f"{path}: received {changes!r}, but it has parts: {', '.join(known)}")
    for key in changes:
        if key not in known:
            raise UsageError(
                f'{path}: unknown key "{key}"; allowed are {", ".join(known)}{suggest(key, known)}'
            )


_WORDS = {
    bool: "true or false",
    int: "a whole number, not negative",
    float: "a number",
    str: "text",
    tuple: "two whole numbers above 0",
}


def _checked(hint: Any, value: Any, path: str) -> Any:
    """Return a value as its type hint wants it, or refuse it."""
    hint = int if hint == Filters else hint
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        wanted = [repr(allowed) for allowed in get_args(hint)]
    else:
        kinds = [get_origin(kind) or kind for kind in get_args(hint) or (hint,)]
        for kind in kinds:
            if kind is tuple and isinstance(value, list | tuple):
                if len(value) == 2 and all(type(n) is int and n > 0 for n in value):
                    return tuple(value)
            elif type(value) is kind and (kind is not int or value >= 0):
                return value
            elif kind is float and type(value) is int:
                return float(value)
        wanted = [_WORDS[kind] for kind in kinds]
    raise UsageError(f"{path}: received {value!r}, but it must be {' or '.join(wanted)}")
