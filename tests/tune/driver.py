"""A search over LeNet-5 whose trials are stub.py's, as a program of its own that can be killed.

python driver.py FOLDER TRIALS here|chief|worker [ADDRESS [NAME]]
"""

import sys
from dataclasses import replace
from pathlib import Path

from keras_cnns import recipe as recipes, runs, zoo
from keras_cnns.tune import here, machines, spaces
from keras_cnns.tune.book import Book
from keras_cnns.tune.budget import Budget, Market, pricing
from keras_cnns.tune.engine import Plan, Search
from keras_cnns.tune.trainer import Trainer
from keras_cnns.tune.wire import address

STUB = (sys.executable, "-S", str(Path(__file__).with_name("stub.py")))
ABOUT = {"recipe": "LeNet-5's"}


def recipe(network="lenet5", size=32):
    found = recipes.Recipe(model=recipes.Model(name=network))
    return replace(found, data=replace(found.data, size=size, channels=1))


def market(network="lenet5", size=32, kind="widths", **limits):
    price = pricing(network, (size, size, 1), 10, activation=True)
    return Market(spaces.make(zoo.spec_of(network), kind), price, Budget(**limits))


def plan(trials, **options):
    shop = options.pop("market", None) or market(max_macs=416_520)
    return Plan(recipe(), shop, shop.anchor(), trials=trials, **options)


def main(folder, trials, role, place="", name=None, jobs=1):
    out, wanted = Path(folder), plan(int(trials))
    if role == "worker":
        with Trainer(STUB) as trainer:
            machines.serve(recipe(), address(place), out, ABOUT, 20, trainer, name)
        return
    with runs.alone(out):
        search = Search(wanted, Book(out / "trials"), lease=4.0, away=role == "chief")
        if role == "chief":
            machines.direct(search, address(place), out, ABOUT, 20)
            return
        here.train(search, wanted.recipe, out, int(jobs), STUB)


if __name__ == "__main__":
    main(*sys.argv[1:])
