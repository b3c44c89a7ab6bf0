"""From an oracle's candidates to the next trial: within the budget, and never tried before."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

from keras_cnns.tune.budget import Market
from keras_cnns.tune.spaces import Space, Values

PATIENCE = 4  # candidates above the budget before one is led to it
ENUMERABLE = 4096  # a space of so many points is gone through, so that its end is certain
DRAWS = ENUMERABLE  # candidates looked at for one trial before they count as exhausted


class Proposal(NamedTuple):
    """The next point, and how many candidates were turned down on the way to it."""

    values: dict[str, float]
    rejected: int


def propose(
    candidates: Iterable[Values],
    market: Market,
    seen: Collection[str],
    anchor: Values,
    draw: Random,
) -> Proposal | None:
    """Return the first candidate that is new and within the budget, or None where none is.

    Where many in a row are not within it, the last is led to the anchor, one dimension after
    another, until it is: that is as new, and costs a few prices where luck would cost hundreds.

    Args:
        candidates: points, the oracle's favourite first.
        market: prices and budget.
        seen: keys of the points that were tried.
        anchor: a point within the budget.
        draw: of the way to the anchor.
    """
    outside = 0
    for rejected, candidate in enumerate(itertools.islice(candidates, DRAWS)):
        values = dict(candidate)
        if market.key(values) in seen:
            continue
        if market.fits(values):
            return Proposal(values, rejected)
        outside += 1
        if outside % PATIENCE == 0 and market.price(values) is not None:
            values = market.between(values, anchor, draw)
            if market.key(values) not in seen and market.fits(values):
                return Proposal(values, rejected + 1)
    return None


def random_points(space: Space, draw: Random) -> Iterator[dict[str, float]]:
    """Give random points of a space; of a small one all, in random order.

    >>> from keras_cnns.zoo import spec_of
    >>> from keras_cnns.tune.spaces import make
    >>> len({tuple(p.values()) for p in random_points(make(spec_of("lenet5")), Random(0))})
    1296
    """
    names, choices = list(space.choices), list(space.choices.values())
    if math.prod(map(len, choices)) <= ENUMERABLE:
        points = list(itertools.product(*choices))
        draw.shuffle(points)
        for point in points:
            yield dict(zip(names, point, strict=True))
        return
    while True:
        yield {name: draw.choice(options) for name, options in space.choices.items()}


def finished(trials: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the trials that were trained to their end."""
    return [trial for trial in trials if trial["status"] == "completed"]
