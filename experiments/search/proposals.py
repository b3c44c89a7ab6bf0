"""How long an oracle takes for a proposal: ours beside KerasTuner's own, in one run.

    python experiments/search/proposals.py [--out proposals.json]

Nothing is trained: a trial's score is a sum of its values and noise. The space is that of
GoogLeNet's splits, 54 dimensions, under the MACs of the paper's own; KerasTuner, which knows no
budget, is asked for its raw proposals, also in 6 dimensions (a row of the same table), and its
Bayesian oracle once more as `tune` has it, within the budget ("bayesian"). Seconds are
the wall's, and the processor's, which count where the machine has other work.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from random import Random

from keras_cnns import zoo
from keras_cnns.tune import kerastuner, oracles, sampler, spaces
from keras_cnns.tune.book import name_of
from keras_cnns.tune.budget import Budget, Market, pricing

SHAPE, CLASSES = (32, 32, 1), 10
TRIALS = 60
PATIENCE = 40.0  # seconds, after which a row ends with the trials that it has


def _market(spec):
    price = pricing("inception_v1", SHAPE, CLASSES)
    space = spaces.make(spec, "ratios")
    return Market(space, price, Budget(max_macs=price(spec).macs))


def _score(values, draw):
    return sum(values.values()) / len(values) + draw.gauss(0, 0.02)


def _ours(name, market):
    """Give the seconds (wall, processor) of each proposal of an oracle as `tune` has it."""
    trials, seen = [], set()
    for i in range(TRIALS):
        draw, start = Random(i), (time.perf_counter(), time.process_time())
        anchor = market.space.default
        if name in kerastuner.NAMES:
            found = kerastuner.next_step(
                name, market, trials, number=i, epochs=1, seen=seen, anchor=anchor, first=[],
                draw=draw,
            )  # fmt: skip
        else:
            candidates = oracles.ORACLES[name](market.space, trials, draw)
            found = sampler.propose(candidates, market, seen, anchor, draw)
        yield time.perf_counter() - start[0], time.process_time() - start[1]
        seen.add(market.key(found.values))
        trials.append(
            {
                "id": name_of(i),
                "values": found.values,
                "macs": market.price(found.values).macs,
                "score": _score(found.values, draw),
                "status": "completed",
            }
        )


def _kerastuners(make, space, repeats):
    """Give the seconds of each proposal of KerasTuner's own; note its repeats."""
    import keras_tuner

    hyperparameters = keras_tuner.HyperParameters()
    for name, choices in space.choices.items():
        hyperparameters.Choice(name, list(choices), default=1.0, ordered=True)
    oracle = make(
        objective=keras_tuner.Objective("score", "max"), hyperparameters=hyperparameters, seed=1
    )
    seen, draw = set(), Random(0)
    for i in range(TRIALS):
        start = (time.perf_counter(), time.process_time())
        answer = oracle.populate_space(str(i))
        yield time.perf_counter() - start[0], time.process_time() - start[1]
        values = hyperparameters.copy()
        values.values = answer["values"]
        trial = keras_tuner.engine.trial.Trial(values, trial_id=str(i), status="COMPLETED")
        trial.score = _score(answer["values"], draw)
        oracle.trials[str(i)] = trial
        oracle.start_order.append(str(i))
        oracle._record_values(trial)
        key = json.dumps(answer["values"], sort_keys=True)
        repeats.append(key in seen)
        seen.add(key)


def _row(name, space, given, repeats=()):
    """Return what a row of the table says; takes proposals for as long as there is patience."""
    until, walls, processors = time.monotonic() + PATIENCE, [], []
    for wall, processor in given:
        walls.append(wall)
        processors.append(processor)
        if time.monotonic() > until:
            break
    last = walls[len(walls) // 2 :]
    found = {
        "oracle": name,
        "dimensions": len(space.choices),
        "proposals": len(walls),
        "median_ms": round(1e3 * statistics.median(walls), 2),
        "median_ms_of_later_half": round(1e3 * statistics.median(last), 2),
        "largest_ms": round(1e3 * max(walls), 2),
        "processor_median_ms": round(1e3 * statistics.median(processors), 2),
        "processor_mean_ms": round(1e3 * statistics.mean(processors), 2),
        "repeated": sum(repeats),
    }
    print(json.dumps(found), flush=True)
    return found


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    from keras_tuner import oracles as theirs

    paper = zoo.spec_of("inception_v1")
    market = _market(paper)
    row = spaces.make({"4a": paper["4a"]}, "ratios")
    bayesian = partial(theirs.BayesianOptimizationOracle, num_initial_points=5)
    ours = (*oracles.ORACLES, "bayesian")
    rows = [_row(name, market.space, _ours(name, market)) for name in ours]
    for name, make in (
        ("KerasTuner random", theirs.RandomSearchOracle),
        ("KerasTuner Bayesian", bayesian),
    ):
        for space in (row, market.space):
            repeats = []
            rows.append(_row(name, space, _kerastuners(make, space, repeats), repeats))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
