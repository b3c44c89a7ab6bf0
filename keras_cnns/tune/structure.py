"""What a spec consists of: rows, and branches that are joined."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from keras_cnns import spec as specs
from keras_cnns.spec import Branches, Conv, Pool


class Joint(NamedTuple):
    """Parallel branches that are joined: paths of the filters at their ends, and within them."""

    name: str
    ends: tuple[str, ...]
    inner: tuple[str, ...]


def joints(spec: Any) -> list[Joint]:
    """Return what is joined in a spec.

    >>> joints({"5b": Branches((Conv(64),), (Conv(48), Conv(64, 5)))})
    [Joint(name='5b', ends=('5b.0.0.filters', '5b.1.1.filters'), inner=('5b.1.0.filters',))]
    """
    paths = ["", *specs.filters(spec)]
    number = {path: i for i, path in enumerate(paths)}
    numbered = specs.map_filters(lambda path, _: number[path], spec)
    found = []
    for name, branches in _branches(numbered, ""):
        ends = list(dict.fromkeys(n for branch in branches for n in _ends(branch)))
        inner = [n for n in dict.fromkeys(_numbers(branches)) if n not in ends]
        found.append(Joint(name, tuple(paths[n] for n in ends), tuple(paths[n] for n in inner)))
    return found


def _branches(value: Any, path: str) -> Iterator[tuple[str, Branches]]:
    """Find the outermost branches, and rows that can be written as such."""
    if isinstance(value, Branches):
        yield path, value
    elif callable(getattr(value, "branches", None)):
        yield path, value.branches()
    else:
        for key, part in parts(value):
            yield from _branches(part, f"{path}.{key}".lstrip("."))


def parts(value: Any) -> list[tuple[str, Any]]:
    """Return what a table, a row or a tuple consists of, by name or index."""
    if hasattr(value, "_fields"):
        return list(value._asdict().items())
    if isinstance(value, Mapping):
        return list(value.items())
    return [(str(i), v) for i, v in enumerate(value)] if isinstance(value, tuple) else []


def _ends(branch: Sequence[Any]) -> list[int]:
    """Return the filters of what a branch ends in; of one that only pools, none."""
    last = next((step for step in reversed(branch) if not isinstance(step, Pool)), None)
    if isinstance(last, Branches):
        return [n for inner in last for n in _ends(inner)]
    return [last.filters] if isinstance(last, Conv) else []


def _numbers(steps: Sequence[Any]) -> Iterator[int]:
    for step in steps:
        if isinstance(step, Conv):
            yield step.filters
        elif not isinstance(step, Pool):
            yield from _numbers(step)


def rows(spec: Any) -> list[str]:
    """Return the rows or stages of a spec by name.

    >>> from keras_cnns.zoo import spec_of
    >>> rows(spec_of("resnet20_cifar"))[:4]
    ['stages.0', 'stages.1', 'stages.2', 'bottleneck']
    """
    found = []
    for name, value in parts(spec):
        stages = type(value) is tuple and all(
            hasattr(part, "_fields") and not isinstance(part, Conv | Pool) for part in value
        )
        found += [f"{name}.{i}" for i in range(len(value))] if stages else [name]
    return found


def within(path: str, name: str) -> bool:
    """Return whether a path is that of a part, or of something in it."""
    return path == name or path.startswith(f"{name}.")
