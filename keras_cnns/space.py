"""The space of a search: the widths that each filter count of a spec may take."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from keras_cnns import spec as specs

MULTIPLIERS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def choices(filters: int) -> list[int]:
    """Return the widths that are tried for a layer of so many filters, itself among them.

    >>> choices(64)
    [16, 32, 48, 64, 80, 96]
    >>> choices(6)
    [2, 3, 4, 6, 8, 9]
    """
    step = 8 if filters >= 32 else 1
    widths = {max(step, step * round(filters * m / step)) for m in MULTIPLIERS}
    return sorted(widths | {filters})


def with_values(spec: Any, values: Mapping[str, int]) -> Any:
    """Return a spec with the filters that `values` names by path."""
    return specs.map_filters(lambda path, n: int(values.get(path, n)), spec)


def shrunk(
    values: Mapping[str, int],
    space: Mapping[str, Sequence[int]],
    price: Callable[[Mapping[str, int]], int],
    limit: int,
    draw: Random,
) -> dict[str, int]:
    """Return values made narrower, a step of one random dimension at a time, until they fit.

    >>> space = {"a": [4, 8], "b": [4, 8]}
    >>> shrunk({"a": 8, "b": 8}, space, lambda v: v["a"] * v["b"], 16, Random(0))
    {'a': 4, 'b': 4}
    """
    values = dict(values)
    while price(values) > limit:
        path = draw.choice([p for p, widths in space.items() if widths[0] < values[p]])
        values[path] = max(n for n in space[path] if n < values[path])
    return values
