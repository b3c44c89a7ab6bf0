"""What to try next, as functions of the trials so far: so nothing else need be kept of a search.

An oracle gives candidates, its favourite first; `sampler.propose` takes the first that is new and
within the budget.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from keras_cnns.tune.sampler import finished, random_points
from keras_cnns.tune.spaces import Space

Trial = Mapping[str, Any]
Candidates = Iterator[dict[str, float]]
Oracle = Callable[[Space, Sequence[Trial], Random], Candidates]

POPULATION, TOURNAMENT = 20, 5
WARM_UP = 10  # random trials before the first are bred
CHANGES = 1.5  # dimensions that a mutation changes, on average


def random(space: Space, trials: Sequence[Trial], draw: Random) -> Candidates:
    """Give random points."""
    return random_points(space, draw)


def evolution(space: Space, trials: Sequence[Trial], draw: Random) -> Candidates:
    """Give mutants of the best of a few of the youngest: regularised evolution.

    Real et al. 2018, https://arxiv.org/abs/1802.01548: of the last `POPULATION` trials,
    `TOURNAMENT` are drawn, and the best of them has a child; the old die, however good.
    """
    alive = finished(trials)[-POPULATION:]
    if len(alive) < WARM_UP:
        yield from random_points(space, draw)
        return
    while True:
        few = draw.sample(alive, min(TOURNAMENT, len(alive)))
        parent = max(few, key=lambda trial: (trial["score"], -trial["macs"]))
        yield mutated(space, parent["values"], draw)


def pareto(space: Space, trials: Sequence[Trial], draw: Random) -> Candidates:
    """Give children of trials that few others beat in accuracy and MACs: NSGA-II.

    Deb et al. 2002, https://doi.org/10.1109/4235.996017: the fittest by front, then by distance
    to their neighbours on it, win tournaments of two; their children mix both parents' values.
    """
    done = finished(trials)
    if len(done) < WARM_UP:
        yield from random_points(space, draw)
        return
    order = ranked(done)[:POPULATION]
    place = {trial["id"]: i for i, trial in enumerate(order)}

    def parent() -> Trial:
        return min((draw.choice(order) for _ in range(2)), key=lambda trial: place[trial["id"]])

    while True:
        one, other = parent()["values"], parent()["values"]
        child = {name: draw.choice((one[name], other[name])) for name in space.choices}
        yield mutated(space, child, draw)


def mutated(space: Space, values: Mapping[str, float], draw: Random) -> dict[str, float]:
    """Return a point with one dimension changed, and sometimes others."""
    names = list(space.choices)
    sure = draw.choice(names)
    changed = dict(values)
    for name in names:
        if name == sure or draw.random() < (CHANGES - 1) / len(names):
            others = [value for value in space.choices[name] if value != values[name]]
            changed[name] = draw.choice(others) if others else values[name]
    return changed


def fronts(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return trials by how many layers of better ones are above them; the first has none.

    >>> a, b, c = [{"score": s, "macs": m} for s, m in ((0.9, 5), (0.8, 3), (0.7, 4))]
    >>> fronts([a, b, c]) == [[a, b], [c]]
    True
    """
    left, found = list(trials), []
    while left:
        front = [trial for trial in left if not any(beats(other, trial) for other in left)]
        found.append(front)
        left = [trial for trial in left if not any(trial is one for one in front)]
    return found


def beats(one: Trial, other: Trial) -> bool:
    """Return whether a trial is at least as good in accuracy and MACs, and better in one."""
    no_worse = one["score"] >= other["score"] and one["macs"] <= other["macs"]
    return no_worse and (one["score"] > other["score"] or one["macs"] < other["macs"])


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return trials in NSGA-II's order: by front, on it by the distance of their neighbours."""
    order: list[Trial] = []
    for front in fronts(trials):
        distance = dict.fromkeys((trial["id"] for trial in front), 0.0)
        for key in ("score", "macs"):
            line = sorted(front, key=lambda trial: trial[key])
            width = (line[-1][key] - line[0][key]) or 1
            distance[line[0]["id"]] = distance[line[-1]["id"]] = float("inf")
            for before, trial, after in zip(line, line[1:], line[2:], strict=False):
                distance[trial["id"]] += (after[key] - before[key]) / width
        order += sorted(front, key=lambda trial: -distance[trial["id"]])
    return order


ORACLES: dict[str, Oracle] = {"random": random, "evolution": evolution, "pareto": pareto}
