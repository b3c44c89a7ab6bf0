"""A search that is killed again and again ends as one that was left alone.

    python experiments/search/kills.py [--trials 60] [--machines] [--out kills.json]

60 trials over GoogLeNet's splits on the digits, none above the MACs of the paper's own split, which
is the first; killed with SIGKILL three times on the way. With --machines, a chief and two workers
on loopback, each of which is killed once and started again. What holds is written down, and what
does not ends the script with an error.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from keras_cnns import recipe as recipes, zoo
from keras_cnns.tune import spaces
from keras_cnns.tune.book import Book
from keras_cnns.tune.budget import Budget, Market, pricing
from keras_cnns.tune.engine import Plan, Search

CLASSES = 10
NET = ("inception_v1", "--data", "digits", "--set", "train.epochs=1")
SHAPE = '[data]\nsize = 32\nchannels = 1\n[model]\nname = "inception_v1"\n'


def _command(*words):
    return [sys.executable, "-m", "keras_cnns", *map(str, words)]


def cost_of_the_paper(folder):
    """Return what `show --json` says of the paper's split at 32x32x1, for the digits' classes."""
    recipe = folder / "paper.toml"
    recipe.write_text(SHAPE)
    shown = json.loads(subprocess.check_output(_command("show", recipe, "--json")))
    head = next(layer for layer in shown["layers"] if layer["name"] == "logits")
    # A recipe knows no classes: the 1,000 of the paper are those of the last layer alone.
    return shown["macs"] - head["macs"] * (1000 - CLASSES) // 1000


def _hash(scores):
    return hashlib.sha256(json.dumps(scores).encode()).hexdigest()[:16]


def _records(out):
    return len(list((out / "trials").glob("0*.json")))


def _start(words, log):
    with log.open("a") as file:
        return subprocess.Popen(_command("tune", *words), stderr=file, stdout=file)


def _wait_until(out, count, process, log):
    while _records(out) < count:
        if process.poll() is not None:
            raise SystemExit(f"a process has ended: see {log}")
        time.sleep(0.2)


def _killed(process):
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def alone(words, out, log, trials, draw):
    """Kill the search three times, wherever it is; return after how many trials."""
    stops = sorted(draw.sample(range(2, trials), 3))
    for stop in stops:
        process = _start(words, log)
        _wait_until(out, stop, process, log)
        time.sleep(draw.uniform(0, 5))
        _killed(process)
    if _start(words, log).wait():
        raise SystemExit(f"the search has failed: see {log}")
    return stops


def together(words, out, log, trials, draw):
    """Kill a worker, the chief, the other worker, each at another time; return when."""
    place = f"127.0.0.1:{draw.randrange(20_000, 60_000)}"
    roles = [(*words, "--chief", place), *2 * [(*words, "--worker", place)]]
    processes = [_start(role, log) for role in roles]
    stops = sorted(draw.sample(range(3, trials), 3))
    for stop, which in zip(stops, (1, 0, 2), strict=True):
        _wait_until(out, stop, processes[0], log)
        _killed(processes[which])
        processes[which] = _start(roles[which], log)
    if statuses := [status for p in processes if (status := p.wait())]:
        raise SystemExit(f"ended with {statuses}: see {log}")
    return stops


def proposed(out, folder, budget, trials):
    """Return the points of a search that nobody disturbs; random ones do not heed the scores."""
    recipe = recipes.load(out / "recipe.toml")
    price = pricing(recipe.model.name, recipe.data.image_shape, CLASSES)
    space = spaces.make(zoo.spec_of(recipe.model.name, recipe.model.spec))
    market = Market(space, price, Budget(max_macs=budget))
    plan = Plan(recipe, market, market.anchor(), trials=trials)
    undisturbed = Search(plan, Book(folder))
    while order := undisturbed.take("nobody"):
        undisturbed.finish(order["id"], {"score": 0.5})
    return [trial["values"] for trial in undisturbed.book.trials()]


def _main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--machines", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="of the search [one that is deleted]")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        budget, out, log = cost_of_the_paper(folder), folder / "search", folder / "log"
        words = (*NET, "--trials", options.trials, "--max-macs", budget, "--out", out)
        began, draw = time.monotonic(), random.Random(0)
        run = together if options.machines else alone
        stops = run(words, out, log, options.trials, draw)
        found = json.loads((out / "trials.json").read_text())
        expected = proposed(out, folder / "undisturbed", budget, options.trials)
    trials = found["trials"]
    told = {
        "mode": "a chief and two workers" if options.machines else "one machine",
        "trials": len(trials),
        "completed": sum(trial["status"] == "completed" for trial in trials),
        "max_macs": budget,
        "largest_macs": max(trial["macs"] for trial in trials),
        "distinct": len({json.dumps(trial["spec"]) for trial in trials}),
        "first_is_the_papers": found["paper"] == trials[0]["id"],
        "killed_after_trials": stops,
        "rejected": found["rejected"],
        "best": max(trial["score"] or 0 for trial in trials),
        "paper": trials[0]["score"],
        "scores": _hash([trial["score"] for trial in trials]),  # equal for equal ones
        "seconds": round(time.monotonic() - began),
        "seconds_a_trial": round(sum(t["seconds"] or 0 for t in trials) / len(trials), 1),
    }
    print(json.dumps(told, indent=1))
    assert told["trials"] == told["distinct"] == told["completed"] == options.trials
    assert told["largest_macs"] == told["max_macs"]
    assert told["first_is_the_papers"]
    assert [trial["values"] for trial in trials] == expected
    if options.out:
        options.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    _main()
