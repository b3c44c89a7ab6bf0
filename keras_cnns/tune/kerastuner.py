"""KerasTuner's oracles, kept to what is new and within the budget.

They are asked as KerasTuner's own tuner asks them, but nothing of theirs is written: each is made
anew from the trials so far, and what it needs to remember besides is kept with the trial.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import chain, islice
from random import Random
from statistics import mean
from typing import Any

from keras_cnns.quiet import start_keras
from keras_cnns.tune.book import name_of
from keras_cnns.tune.budget import Market
from keras_cnns.tune.oracles import mutated
from keras_cnns.tune.sampler import PATIENCE, Proposal, finished, propose, random_points
from keras_cnns.tune.steps import Step, Wait

NAMES = ("kerastuner", "bayesian", "hyperband")
OBJECTIVE = "score"
INITIAL = 5  # random trials before the Bayesian oracle chooses
POOL = 256  # points that the Bayesian oracle chooses from
NOISE = 0.25  # of the variance of the scores, by the seed of a training
PARENTS = 5  # of the best trials, whose mutants are half of them

Trial = Mapping[str, Any]


def least_trials(epochs: int) -> int:
    """Return how many trials Hyperband makes before one is trained for all epochs, that one too.

    Where one of them fails it is one more at least.

    Li et al. 2018, https://arxiv.org/abs/1603.06560: a round keeps a third of the one before it.

    >>> least_trials(30)  # 34 of 2 epochs, 12 of 4, 4 of 10
    51
    """
    rounds, left = 0, epochs / 3
    while left >= 1:
        rounds, left = rounds + 1, left / 3
    last = math.ceil(1 + math.log(epochs, 3)) / (rounds + 1)
    return sum(math.ceil(last * 3**n) for n in range(1, rounds + 1)) + 1


def next_step(
    name: str,
    market: Market,
    trials: Sequence[Trial],
    *,
    number: int,
    epochs: int,
    seen: set[str],
    anchor: Mapping[str, float],
    first: Sequence[Mapping[str, float]],
    draw: Random,
    wanted: float = math.inf,
) -> Step | Wait | None:
    """Return what an oracle of KerasTuner's tries next, WAIT for a trial to end, or None.

    Args:
        name: one of `NAMES`: random search, Bayesian or Hyperband.
        market: the space, its prices and budget.
        trials: so far, in order.
        number: of the next one.
        epochs: of a trial that is trained to its end.
        seen: keys of the points tried.
        anchor: a point within the budget.
        first: points to try before any other.
        draw: of the oracle's seed, and of points where its own are not to be had.
        wanted: how many trials are still to be made.
    """
    start_keras()
    import keras_tuner
    from keras_tuner import oracles

    space = market.space
    hyperparameters = keras_tuner.HyperParameters()
    for dimension, choices in space.choices.items():
        hyperparameters.Choice(dimension, list(choices), default=1.0, ordered=True)
    # KerasTuner's own defaults are three random trials for each dimension, which is for few of
    # them, and next to no noise, which makes a process that expects nothing but what it has seen.
    bayesian = partial(oracles.BayesianOptimizationOracle, num_initial_points=INITIAL, alpha=NOISE)
    hyperband = partial(oracles.HyperbandOracle, max_epochs=epochs, hyperband_iterations=None)
    make = dict(zip(NAMES, (oracles.RandomSearchOracle, bayesian, hyperband), strict=True))[name]
    oracle = make(
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        hyperparameters=hyperparameters,
        allow_new_entries=False,
        tune_new_entries=False,
        seed=draw.randrange(1, 2**32),  # it takes 0 for "no seed"
    )
    known = set(keras_tuner.Oracle.get_state(oracle))
    _remember(oracle, trials, number, hyperparameters)
    told = [trial for trial in oracle.trials.values() if trial.status == "COMPLETED"]
    if name == "bayesian" and len(told) >= oracle.num_initial_points:
        chosen = _promising(oracle, market, trials, seen, anchor, draw)
        return Step(*chosen) if chosen else None
    rejected, own = 0, oracle._random_values

    def settled() -> dict[str, float] | None:
        nonlocal rejected
        drawn = islice(iter(own, None), PATIENCE)
        candidates = chain(first, drawn, random_points(space, draw))
        found = propose(candidates, market, seen, anchor, draw)
        rejected += found.rejected if found else 0
        return found.values if found else None

    oracle._random_values = settled
    if name == "hyperband":
        oracle._remove_completed_brackets = partial(_forget_completed, oracle)
    answer = oracle.populate_space(name_of(number))
    if answer["status"] == "IDLE":
        return Wait()
    if answer["status"] != "RUNNING":
        return None
    if name == "hyperband" and oracle.ongoing_trials and wanted <= _owed(oracle, name_of(number)):
        return Wait()
    values = dict(answer["values"])
    schedule = {
        key.removeprefix("tuner/"): values.pop(key) for key in list(values) if key[:6] == "tuner/"
    }
    state = {key: value for key, value in oracle.get_state().items() if key not in known}
    return Step(
        values,
        rejected,
        epochs=schedule.get("epochs"),
        initial_epoch=schedule.get("initial_epoch", 0),
        after=schedule.get("trial_id"),
        state=state,
    )


def _promising(
    oracle: Any,
    market: Market,
    trials: Sequence[Trial],
    seen: set[str],
    anchor: Mapping[str, float],
    draw: Random,
) -> Proposal | None:
    """Return the point with the best confidence bound of those that may be tried, None for none.

    The Gaussian process and the bound are KerasTuner's, but for two things. It seeks the bound's
    optimum in all of the space, where that is mostly beyond the budget; here it is the best of
    `POOL` points that are new and within it, half of them random, half near the best trials. And
    the length of its kernel is at least the distance of two random points: few noisy scores fit
    best with none, by which no trial says anything of another point, and all are as promising.
    """
    from sklearn.gaussian_process.kernels import Matern

    pool = _pool(market, trials, seen, anchor, draw)
    if not pool:
        return None
    dimensions = oracle._nonfixed_space()
    apart = math.sqrt(len(dimensions) / 6)  # of the unit cube's points, on average
    oracle.gpr.kernel = Matern(apart, (apart, 10 * apart), nu=2.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about KerasTuner's kernel
        oracle.gpr.fit(*oracle._vectorize_trials())
    points = [[d.value_to_prob(found.values[d.name]) for d in dimensions] for found in pool]
    expected, deviation = oracle.gpr.predict(points, return_std=True)
    bound = expected - oracle.beta * deviation  # of what it minimises, the score's negative
    return Proposal(pool[int(bound.argmin())].values, sum(found.rejected for found in pool))


def _pool(
    market: Market,
    trials: Sequence[Trial],
    seen: set[str],
    anchor: Mapping[str, float],
    draw: Random,
) -> list[Proposal]:
    """Return different points that are new and within the budget, fewer where there are no more."""
    best = sorted(finished(trials), key=lambda trial: trial["score"])[-PARENTS:]

    def mutants() -> Iterator[dict[str, float]]:
        while True:
            yield mutated(market.space, draw.choice(best)["values"], draw)

    pool, taken = list[Proposal](), set(seen)
    for candidates in (random_points(market.space, draw), mutants()):
        for _ in range(POOL // 2):
            found = propose(candidates, market, taken, anchor, draw)
            if found is None:
                break
            pool.append(found)
            taken.add(market.key(found.values))
    return pool


def _remember(oracle: Any, trials: Sequence[Trial], count: int, hyperparameters: Any) -> None:
    """Tell a new oracle of the trials so far; those whose record was removed have failed."""
    from keras_tuner.engine.trial import Trial as Told
    from keras_tuner.oracles import BayesianOptimizationOracle

    scores = [trial["score"] for trial in trials if trial["status"] == "completed"]
    # Its own guess at those at work is of a model that has not been fitted, as it is made anew.
    guessed = bool(scores) and isinstance(oracle, BayesianOptimizationOracle)
    by_name = {trial["id"]: trial for trial in trials}
    for name in map(name_of, range(count)):
        trial = by_name.get(name, _REMOVED)
        values = hyperparameters.copy()
        values.values = dict(trial["values"])
        running = trial["status"] == "running"
        status = "completed" if running and guessed else trial["status"]
        told = Told(values, trial_id=name, status=_STATUS[status])
        told.score = mean(scores) if running and guessed else trial["score"]
        oracle.trials[told.trial_id] = told
        oracle.start_order.append(told.trial_id)
        if status == "running":
            oracle.ongoing_trials[told.trial_id] = told
    if trials and trials[-1].get("state"):
        state = deepcopy(trials[-1]["state"])  # the oracle goes on writing in it
        lost = {told.trial_id for told in oracle.trials.values() if told.status in _LOST}
        for bracket in state.get("brackets", ()):
            _vacate(bracket["rounds"], lost)
        oracle.set_state({**oracle.get_state(), **state})


def _vacate(rounds: Sequence[list[dict[str, Any]]], lost: set[str]) -> None:
    """Free the places of lost trials in a bracket of Hyperband's, and of those they went on from.

    A round promotes none before enough of its trials are completed, for which it would wait for
    ever; and what has failed once when it was gone on with is not to be gone on with again.
    """
    gone = set(lost)
    for places in reversed(rounds):
        gone |= {place["past_id"] for place in places if place["id"] in gone}
        places[:] = [place for place in places if place["id"] not in gone]


def _forget_completed(oracle: Any) -> None:
    """Forget the brackets of Hyperband's whose last round is completed.

    It forgets them as the last trial begins, which then has no place that another could take.
    """

    def at_work(bracket: Mapping[str, Any]) -> bool:
        *_, last = bracket["rounds"]
        full = len(last) == oracle._get_size(bracket["bracket_num"], len(bracket["rounds"]) - 1)
        return not full or any(oracle.trials[t["id"]].status != "COMPLETED" for t in last)

    oracle._brackets = list(filter(at_work, oracle._brackets))


def _owed(oracle: Any, name: str) -> int:
    """Return how many trials the brackets of Hyperband's before that of a trial have yet to get.

    It begins another bracket rather than wait for a trial at work, and may so spend the trials by
    which one would have been trained for all epochs.
    """
    owed = 0
    for bracket in oracle._brackets:
        number, rounds = bracket["bracket_num"], bracket["rounds"]
        if any(place["id"] == name for places in rounds for place in places):
            break
        owed += sum(oracle._get_size(number, n) - len(places) for n, places in enumerate(rounds))
    return owed


_REMOVED: Trial = {"values": {}, "status": "failed", "score": None}
_STATUS = {
    "running": "RUNNING", "completed": "COMPLETED", "failed": "FAILED", "refused": "INVALID"
}  # fmt: skip
_LOST = ("FAILED", "INVALID")
