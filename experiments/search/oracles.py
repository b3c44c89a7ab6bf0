"""What an oracle finds: a search by each on made-up scores, under one budget.

    python experiments/search/oracles.py [--trials 36] [--out oracles.json]

Nothing is trained. The space is that of inception_v1_cifar10.toml: GoogLeNet's splits, tied to 18
dimensions, under the MACs of the paper's own. A score is a parabola in each dimension, their tops
and tilts drawn at random, and noise as of a training's seed; 1 is the deviation of random points.
What is told is without the noise, above the paper's split: of the trial whose score was best, and
of the second half of all trials on average.
"""

import argparse
import json
import statistics
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from keras_cnns import recipe as recipes, zoo
from keras_cnns.tune import ORACLE_NAMES, spaces
from keras_cnns.tune.book import Book
from keras_cnns.tune.budget import Budget, Market, pricing
from keras_cnns.tune.engine import Plan, Search
from keras_cnns.tune.sampler import propose, random_points

NETWORK = "inception_v1"
FUNCTIONS = 8
NOISES = (0.5, 1.0)


def _market():
    paper, price = zoo.spec_of(NETWORK), pricing(NETWORK, (32, 32, 3), 10)
    space = spaces.make(paper, "ratios", tied=("3", "4", "5"))
    return Market(space, price, Budget(max_macs=price(paper).macs))


def _function(market, seed):
    """Return what is to be found, 0 for the paper's split; random points deviate by 1."""
    draw, space = Random(seed), market.space
    tilts = {name: draw.gauss(0, 1) for name in space.choices}
    tops = {name: draw.uniform(0.4, 1.4) for name in space.choices}

    def raw(values):
        return sum(tilts[n] * value - (value - tops[n]) ** 2 for n, value in values.items())

    points, default = random_points(space, draw), space.default
    some = [propose(points, market, (), default, draw).values for _ in range(100)]
    spread = statistics.stdev(map(raw, some))
    return lambda values: (raw(values) - raw(default)) / spread


def _gains(oracle, market, seed, noise, trials):
    truth, draw = _function(market, seed), Random(seed)
    recipe = recipes.Recipe(model=recipes.Model(name=NETWORK), seed=seed)
    with TemporaryDirectory() as folder:
        plan = Plan(recipe, market, market.anchor(), oracle, trials)
        search = Search(plan, Book(Path(folder) / "trials"))
        while order := search.take("nobody"):
            values = search.book.records[order["id"]]["values"]
            search.finish(order["id"], {"score": truth(values) + draw.gauss(0, noise)})
        found = search.book.trials()
    best = max(found, key=lambda trial: trial["score"])
    later = [truth(trial["values"]) for trial in found[trials // 2 :]]
    return truth(best["values"]), statistics.mean(later)


def main():
    """Search, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    market, rows = _market(), []
    for noise in NOISES:
        # Hyperband's scores are of trainings of different lengths, which these are not.
        for oracle in (name for name in ORACLE_NAMES if name != "hyperband"):
            gains = [
                _gains(oracle, market, seed, noise, options.trials) for seed in range(FUNCTIONS)
            ]
            best, later = ([round(gain, 2) for gain in part] for part in zip(*gains, strict=True))
            rows.append(
                {
                    "oracle": oracle,
                    "noise": noise,
                    "best": best,
                    "best_mean": round(statistics.mean(best), 2),
                    "second_half": later,
                    "second_half_mean": round(statistics.mean(later), 2),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
