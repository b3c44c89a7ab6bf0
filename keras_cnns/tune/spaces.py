"""What a search may change in a spec, and how: each space has the network as it stands in it.

A dimension is named by its path in the spec, and its values are factors: 1 leaves the paper's own
number, so that the point whose factors are all 1 is the paper's network.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from keras_cnns import spec as specs
from keras_cnns.errors import UsageError, suggest
from keras_cnns.spec import Branches, Conv, Pool
from keras_cnns.tune.structure import Joint, joints, parts, rows, within

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
KINDS = ("ratios", "widths", "rows", "reductions", "depths")

Values = Mapping[str, float]


class Space(NamedTuple):
    """The choices of each dimension, and what a point of the space stands for.

    `kind` is one of `KINDS`, `choices` has the factors of each dimension in rising order, and
    `spec_of` makes a spec of a point.
    """

    kind: str
    choices: Mapping[str, tuple[float, ...]]
    spec_of: Callable[[Values], Any]

    @property
    def default(self) -> dict[str, float]:
        """The point that is the network as it stands."""
        return dict.fromkeys(self.choices, 1.0)


def make(
    spec: Any, kind: str | None = None, *, free_totals: bool = False, tied: Sequence[str] = ()
) -> Space:
    """Return a space around a spec.

    "ratios" gives each branch of a joint another share of the joint's width, which stays as it is,
    and what reduces within a branch another fraction of it; "widths" changes each number of
    filters by itself, "rows" all of a row or stage together, "reductions" those within branches
    alone, "depths" the number of blocks in a stage.

    Args:
        spec: a network's.
        kind: one of `KINDS`; None is "ratios", or "rows" for a network without branches.
        free_totals: of ratios: the width of each joint is a dimension as well, "3a.total".
        tied: prefixes of names, as "4": what begins so shares its factors, as "4*.conv1"; of
            several that a name begins with, the longest counts.

    Raises:
        UsageError: for an unknown kind, one that the network does not have, a prefix of nothing.

    >>> from keras_cnns.zoo import spec_of
    >>> space = make(spec_of("inception_v1"))
    >>> space.kind, len(space.choices), list(space.choices)[:2]
    ('ratios', 54, ['3a.conv1', '3a.conv3'])
    >>> tuple(space.spec_of({"3a.conv1": 0.5})["3a"])
    (40, 96, 144, 16, 40, 32)
    """
    if kind is None:
        kind = "ratios" if any(len(joint.ends) > 1 for joint in joints(spec)) else "rows"
    check(kind)
    if free_totals and kind != "ratios":
        raise UsageError(f"only the space ratios has totals to set free, and this is {kind}")
    space = _ratios(spec, free_totals) if kind == "ratios" else _MAKERS[kind](spec)
    if not space.choices:
        raise UsageError(f"this network has no {kind} to search; choose another --space")
    return _tied(space, tied, [*(joint.name for joint in joints(spec)), *rows(spec)])


def check(kind: str | None) -> None:
    """Refuse the name of a space that there is not."""
    if kind not in (None, *KINDS):
        raise UsageError(
            f'unknown space "{kind}"; allowed are {", ".join(KINDS)}{suggest(str(kind), KINDS)}'
        )


def rounded(number: int, factor: float) -> int:
    """Return a number of filters times a factor: multiples of 8, of 1 below 32, at least one.

    >>> rounded(192, 0.75), rounded(16, 0.75), rounded(6, 0.25), rounded(30, 1)
    (144, 12, 2, 30)
    """
    step = 8 if number >= 32 else 1
    return number if factor == 1 else max(step, step * round(number * factor / step))


def shared(total: int, weights: Sequence[float], unit: int) -> list[int]:
    """Return a total cut by weights into multiples of a unit, at least one each.

    >>> shared(256, [32, 128, 32, 32], 8)
    [40, 144, 40, 32]
    """
    units = max(total // unit, len(weights))
    ideal = [units * weight / sum(weights) for weight in weights]
    counts = [max(1, int(x)) for x in ideal]
    while (left := units - sum(counts)) != 0:
        step = 1 if left > 0 else -1
        able = [i for i, count in enumerate(counts) if count + step >= 1]
        i = max(able, key=lambda i: (step * (ideal[i] - counts[i]), -i))
        counts[i] += step
    return [count * unit for count in counts]


def _by_factor(spec: Any, kind: str, groups: Mapping[str, Sequence[str]]) -> Space:
    """Return the space in which the filters of each group are multiplied together."""
    paper = specs.filters(spec)
    dimension_of = {path: name for name, paths in groups.items() for path in paths}

    def spec_of(values: Values) -> Any:
        return specs.map_filters(
            lambda path, n: rounded(n, values.get(dimension_of.get(path, ""), 1.0)), spec
        )

    choices = {
        name: _distinct(rounded, [paper[path] for path in paths])
        for name, paths in groups.items()
        if paths
    }
    return Space(kind, choices, spec_of)


def _distinct(times: Callable[[int, float], int], numbers: Sequence[int]) -> tuple[float, ...]:
    """Return the factors that lead to different numbers, of equal ones the nearest to 1."""
    nearest: dict[tuple[int, ...], float] = {}
    for factor in sorted(FACTORS, key=lambda factor: abs(factor - 1)):
        nearest.setdefault(tuple(times(n, factor) for n in numbers), factor)
    return tuple(sorted(nearest.values()))


def _widths(spec: Any) -> Space:
    return _by_factor(spec, "widths", {path: [path] for path in specs.filters(spec)})


def _rows(spec: Any) -> Space:
    paths = specs.filters(spec)
    return _by_factor(
        spec, "rows", {row: [p for p in paths if within(p, row)] for row in rows(spec)}
    )


def _reductions(spec: Any) -> Space:
    inner = [path for joint in joints(spec) for path in joint.inner]
    return _by_factor(spec, "reductions", {path: [path] for path in inner})


def _ratios(spec: Any, free_totals: bool) -> Space:
    paper = specs.filters(spec)
    found = [joint for joint in joints(spec) if len(joint.ends) > 1]

    def split(joint: Joint, values: Values) -> dict[str, int]:
        filters = [paper[path] for path in joint.ends]
        factors = [values.get(path, 1.0) for path in joint.ends]
        total = sum(filters)
        wide = total >= 32 * len(filters) and not any(n % 8 for n in filters)
        unit = 8 if wide else 1
        if joint.name + ".total" in values:
            total = max(unit, unit * round(total * values[joint.name + ".total"] / unit))
        weights = [n * factor for n, factor in zip(filters, factors, strict=True)]
        if total == sum(filters) and len(set(factors)) == 1:
            return dict(zip(joint.ends, filters, strict=True))
        return dict(zip(joint.ends, shared(total, weights, unit), strict=True))

    def spec_of(values: Values) -> Any:
        ends: dict[str, int] = {}
        for joint in found:
            ends |= split(joint, values)
        return specs.map_filters(
            lambda path, n: ends[path] if path in ends else rounded(n, values.get(path, 1.0)), spec
        )

    choices: dict[str, tuple[float, ...]] = {}
    for joint in found:
        choices |= dict.fromkeys(joint.ends, FACTORS)
        choices |= {p: _distinct(rounded, [paper[p]]) for p in joint.inner}
        choices |= {f"{joint.name}.total": FACTORS} if free_totals else {}
    return Space("ratios", choices, spec_of)


def _map_depths(change: Callable[[str, int], int], value: Any, path: str = "") -> Any:
    """Return a spec with its numbers of blocks changed: fields named depth, equal convolutions."""
    if isinstance(value, Conv | Pool | Branches):
        return value
    found = [(key, f"{path}.{key}".lstrip("."), part) for key, part in parts(value)]
    changed = {
        key: change(place, part) if key == "depth" else _map_depths(change, part, place)
        for key, place, part in found
    }
    if hasattr(value, "_fields"):
        return type(value)(**changed)
    if isinstance(value, Mapping):
        return changed
    if not isinstance(value, tuple):
        return value
    alike = len(set(value)) == 1 and isinstance(value[0], Conv) and value[0].strides == 1
    return value[:1] * change(f"{path}.depth", len(value)) if alike else tuple(changed.values())


def depths(spec: Any) -> dict[str, int]:
    """Return a spec's numbers of blocks, by path.

    >>> from keras_cnns.zoo import spec_of
    >>> depths(spec_of("resnet18"))["stages.0.depth"]
    2
    """
    found: dict[str, int] = {}
    _map_depths(lambda path, n: found.setdefault(path, n), spec)
    return found


def _depths(spec: Any) -> Space:
    paper = depths(spec)

    def blocks(n: int, factor: float) -> int:
        return n if factor == 1 else max(1, round(n * factor))

    def spec_of(values: Values) -> Any:
        return _map_depths(lambda path, n: blocks(n, values.get(path, 1.0)), spec)

    choices = {path: _distinct(blocks, [n]) for path, n in paper.items()}
    return Space("depths", choices, spec_of)


_MAKERS = {"widths": _widths, "rows": _rows, "reductions": _reductions, "depths": _depths}


def _tied(space: Space, prefixes: Sequence[str], names: Sequence[str]) -> Space:
    """Return the space in which what begins with a prefix shares its factors, part by part."""

    def tied(name: str) -> str:
        prefix = max(filter(name.startswith, prefixes), key=len, default=None)
        if prefix is None:
            return name
        inside = [known for known in names if within(name, known) and known.startswith(prefix)]
        owner = max(inside, key=len, default=name)
        return f"{prefix}*{name.removeprefix(owner)}"

    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in space.choices):
            raise UsageError(
                f'nothing to tie begins with "{prefix}"; '
                f"there are {', '.join(list(space.choices)[:8])}, ..."
            )
    alias = {name: tied(name) for name in space.choices}
    choices: dict[str, tuple[float, ...]] = {}
    for name, new in alias.items():
        choices[new] = tuple(sorted({*choices.get(new, ()), *space.choices[name]}))

    def spec_of(values: Values) -> Any:
        return space.spec_of({name: values[new] for name, new in alias.items() if new in values})

    return Space(space.kind, choices, spec_of)
