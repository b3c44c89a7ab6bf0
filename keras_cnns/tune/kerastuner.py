"""KerasTuner's oracles, kept to what is new and within the budget.

They are asked as KerasTuner's own tuner asks them, but nothing of theirs is written: each is made
anew from the trials so far, and what it needs to remember besides is kept with the trial.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from random import Random
from statistics import mean
from typing import Any

from keras_cnns.quiet import start_keras
from keras_cnns.tune.budget import Market
from keras_cnns.tune.sampler import propose, random_points
from keras_cnns.tune.steps import Step, Wait

NAMES = ("kerastuner", "bayesian", "hyperband")
OBJECTIVE = "score"

Make = Callable[..., Any]
Trial = Mapping[str, Any]


def maker(name: str, *, trials: int, epochs: int) -> Make:
    """Return what makes an oracle of KerasTuner's: random search, Bayesian or Hyperband."""
    start_keras()
    from keras_tuner import oracles

    if name == "bayesian":
        # KerasTuner's own default, three random trials for each dimension, is for few dimensions.
        initial = max(3, trials // 4)
        return partial(oracles.BayesianOptimizationOracle, num_initial_points=initial)
    if name == "hyperband":
        return partial(oracles.HyperbandOracle, max_epochs=epochs, hyperband_iterations=None)
    return oracles.RandomSearchOracle


def next_step(
    make: Make,
    market: Market,
    trials: Sequence[Trial],
    *,
    seen: set[str],
    anchor: Mapping[str, float],
    first: Sequence[Mapping[str, float]],
    seed: int,
    draw: Random,
) -> Step | Wait | None:
    """Return what an oracle of KerasTuner's tries next, WAIT for a trial to end, or None.

    Args:
        make: takes `objective`, `hyperparameters` and others by name, and returns an oracle.
        market: the space, its prices and budget.
        trials: so far, in order.
        seen: keys of the points tried.
        anchor: a point within the budget.
        first: points to try before any other.
        seed: of the oracle.
        draw: of points where the oracle's own is not to be had.
    """
    start_keras()
    import keras_tuner

    space = market.space
    hyperparameters = keras_tuner.HyperParameters()
    for name, choices in space.choices.items():
        hyperparameters.Choice(name, list(choices), default=1.0, ordered=True)
    oracle = make(
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        hyperparameters=hyperparameters,
        allow_new_entries=False,
        tune_new_entries=False,
        seed=seed + 1,  # it takes 0 for "no seed"
    )
    own = set(keras_tuner.Oracle.get_state(oracle))
    _remember(oracle, trials, hyperparameters)
    rejected = 0

    def settle(wanted: Mapping[str, float] | None) -> dict[str, float] | None:
        nonlocal rejected
        given = [] if wanted is None else [wanted]
        found = propose(chain(first, given, random_points(space, draw)), market, seen, anchor, draw)
        rejected += found.rejected if found else 0
        return found.values if found else None

    oracle._random_values = lambda: settle(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about how KerasTuner uses it
        answer = oracle.populate_space(str(len(trials)))
    if answer["status"] == "IDLE":
        return Wait()
    if answer["status"] != "RUNNING":
        return None
    values = dict(answer["values"])
    schedule = {
        key.removeprefix("tuner/"): values.pop(key) for key in list(values) if key[:6] == "tuner/"
    }
    promoted = schedule.get("round", 0) > 0
    if not promoted and (market.key(values) in seen or not market.fits(values)):
        settled = settle(values)
        if settled is None:
            return None
        values, rejected = settled, rejected + 1
    state = {key: value for key, value in oracle.get_state().items() if key not in own}
    return Step(
        values,
        rejected,
        epochs=schedule.get("epochs"),
        initial_epoch=schedule.get("initial_epoch", 0),
        after=schedule.get("trial_id"),
        state=state,
    )


def _remember(oracle: Any, trials: Sequence[Trial], hyperparameters: Any) -> None:
    """Tell a new oracle of the trials so far."""
    from keras_tuner.engine.trial import Trial as Told
    from keras_tuner.oracles import BayesianOptimizationOracle

    scores = [trial["score"] for trial in trials if trial["status"] == "completed"]
    # Its own guess at those at work is of a model that has not been fitted, as it is made anew.
    guessed = bool(scores) and isinstance(oracle, BayesianOptimizationOracle)
    for number, trial in enumerate(trials):
        values = hyperparameters.copy()
        values.values = dict(trial["values"])
        running = trial["status"] == "running"
        status = "completed" if running and guessed else trial["status"]
        told = Told(values, trial_id=str(number), status=_STATUS[status])
        told.score = mean(scores) if running and guessed else trial["score"]
        oracle.trials[told.trial_id] = told
        oracle.start_order.append(told.trial_id)
        if status == "running":
            oracle.ongoing_trials[told.trial_id] = told
    if trials and trials[-1].get("state"):
        oracle.set_state({**oracle.get_state(), **trials[-1]["state"]})


_STATUS = {
    "running": "RUNNING", "completed": "COMPLETED", "failed": "FAILED", "refused": "INVALID"
}  # fmt: skip
