"""Search a network's channel splits within a budget; the network as it stands comes first.

The oracle says what to try (`oracles`, `kerastuner`), the sampler sees to it that it is new and
within the budget (`sampler`, `budget`), the engine keeps the books and hands out the work
(`engine`, `book`), a process trains each trial (`trainer`, `trial`), on this machine (`here`) or
on others (`machines`, `wire`).
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from keras_cnns import data, recipe as recipes, runs, spec as specs, train, zoo
from keras_cnns.errors import UsageError, suggest
from keras_cnns.recipe import Recipe, Train
from keras_cnns.training import machine
from keras_cnns.tune import answer, arrays, here, kerastuner, machines, pictures, spaces
from keras_cnns.tune.book import Book
from keras_cnns.tune.budget import Budget, Market, pricing
from keras_cnns.tune.engine import Plan, Search
from keras_cnns.tune.latency import FORMATS as LATENCY_OF
from keras_cnns.tune.oracles import ORACLES
from keras_cnns.tune.trainer import Trainer
from keras_cnns.tune.wire import address, given_secret

__all__ = ["LATENCY_OF", "ORACLE_NAMES", "SPACES", "tune", "work"]

ORACLE_NAMES = (*ORACLES, *kerastuner.NAMES)
SPACES = spaces.KINDS
PATIENCE = 600.0  # seconds


def tune(
    recipe: Recipe,
    out: str | Path,
    *,
    trials: int,
    space: str | None = None,
    free_totals: bool = False,
    tied: Sequence[str] = (),
    oracle: str = "random",
    max_macs: int | None = None,
    min_macs: int | None = None,
    max_params: int | None = None,
    max_activation_mb: float | None = None,
    max_latency_ms: float | None = None,
    latency_of: str = "tflite",
    repeat: int = 0,
    finalists: int = 1,
    jobs: int = 1,
    chief: str | None = None,
    patience: float = PATIENCE,
) -> dict[str, Any]:
    """Train `trials` networks of different filters within a budget; the best by validation wins.

    Called again with the same search on the same folder, it goes on where it stopped, killed or
    not; `trials`, `repeat` and `finalists` may then be others. What more trials bring into the
    repeats makes all claims harder; more repeats, once their p was looked at, make it invalid.

    Args:
        recipe: the network whose filters are searched, and how each trial is trained.
        out: folder for the search's state, trials.json, best.toml, pareto/ and report.html.
        trials: how many networks to train in all.
        space: one of `SPACES`; None is "ratios", or "rows" for a network without branches.
        free_totals: of "ratios": the width of each row is searched as well.
        tied: prefixes of names of dimensions that share their value, as "4".
        oracle: one of `ORACLE_NAMES`.
        max_macs: multiply-adds that no trial exceeds.
        min_macs: multiply-adds that each trial has at least, so that splits are compared, not
            sizes.
        max_params: trainable weights that no trial exceeds.
        max_activation_mb: megabytes of feature maps needed at once that no trial exceeds.
        max_latency_ms: milliseconds for one image, of the exported file on the machine that
            trains, measured before a trial is trained.
        latency_of: the kind of that file, "tflite" or "onnx".
        repeat: how often the best others and the network as it stands, also where that is outside
            the budget, are trained anew, each time with another seed, to be compared on the test
            split; 0 or at least 2.
        finalists: how many of the best others.
        jobs: trials at a time on this machine, each on its share of the processor cores.
        chief: HOST:PORT to listen on: nothing is trained here, but by workers; see `work`. What
            the recipe leaves to the machine, as precision, is decided here for all.
        patience: seconds without a worker after which a chief gives up.

    Returns:
        {"trials": [{id, values, spec, params, macs, score, status, why, seconds}], "best",
        "pareto", "paper" (the id of the network as it stands), "space", "rejected" (how many
        proposals), "refused" (as trials: those too slow), "repeats", "winner", "importance" (of
        each dimension), "given" (the spec as it stands), "start", "left_out" (why "paper" is
        None), "max_macs", "objective"}.

    Raises:
        UsageError: as `train.train`, and where nothing fits the budget: the cheapest is named.
    """
    for name, number, least in (
        ("trials", trials, 1), ("repeats", repeat, 0), ("finalists", finalists, 1)
    ):  # fmt: skip
        if number < least:
            raise UsageError(f"received {number} {name}, but at least {least} is needed")
    if repeat == 1:
        raise UsageError("received 1 repeat, by which nothing can be tested; give 0, or 2 and more")
    if finalists > 1 and not repeat:
        raise UsageError(
            f"received {finalists} finalists, but they are only repeated; give repeats"
        )
    for name, limit in (
        ("MACs", max_macs), ("MACs", min_macs), ("parameters", max_params),
        ("megabytes", max_activation_mb), ("milliseconds", max_latency_ms),
    ):  # fmt: skip
        if limit is not None and not limit > 0:
            raise UsageError(f"received a limit of {limit} {name}; it is a number above 0")
    if latency_of not in LATENCY_OF:
        raise UsageError(f'received "{latency_of}"; latency is that of {" or ".join(LATENCY_OF)}')
    if latency_of != LATENCY_OF[0] and max_latency_ms is None:
        raise UsageError(f"received latency of {latency_of}, but no limit; give --max-latency-ms")
    spaces.check(space)
    if oracle not in ORACLE_NAMES:
        near = suggest(str(oracle), ORACLE_NAMES)
        raise UsageError(f'unknown oracle "{oracle}"; allowed are {", ".join(ORACLE_NAMES)}{near}')
    epochs = recipe.train.epochs
    if oracle == "hyperband" and trials < (least := kerastuner.least_trials(epochs)):
        raise UsageError(
            f"received {trials} trials, by which hyperband trains none for all {epochs} epochs; "
            f"give at least {least}, or fewer train.epochs"
        )
    out, place = Path(out), address(chief) if chief else None
    if place:
        given_secret()
    if place and jobs != 1:
        raise UsageError(f"received {jobs} jobs for a chief, which trains nothing; start workers")
    here.shares(jobs)
    start = _start(recipe)
    runs.check_folder(out, "search.json", "search")
    recipe, source = _resolved(recipe)
    searched = spaces.make(
        zoo.spec_of(recipe.model.name, recipe.model.spec), space, free_totals=free_totals, tied=tied
    )
    budget = Budget(max_macs, min_macs, max_params, max_activation_mb)
    price = pricing(
        recipe.model.name,
        recipe.data.image_shape,
        len(source.labels),
        activation=max_activation_mb is not None,
    )
    market = Market(searched, price, budget)
    anchor = market.anchor()
    left_out = None if market.fits(searched.default) else _left_out(market)
    if left_out:
        print(left_out, file=sys.stderr)
    settings = {
        "space": searched.kind,
        "free_totals": free_totals,
        "tied": list(tied),
        "oracle": oracle,
        **budget._asdict(),
        "max_latency_ms": max_latency_ms,
        "latency_of": latency_of,
    }
    with runs.full_disk(out):
        settled = _open_folder(out, recipe, source, settings, elsewhere=place is not None)
        plan = Plan(
            settled,
            market,
            anchor,
            oracle,
            trials,
            repeat,
            finalists,
            "test" if source.sizes["test"] else "validation",
            max_latency_ms,
            latency_of,
        )
        with runs.alone(out):
            book = Book(out / "trials")

            def write() -> dict[str, Any]:
                found = _found(plan, book) | {"start": start}
                found["left_out"] = left_out or _too_slow(market, found["refused"])
                runs.write_text(out / "trials.json", json.dumps(found, indent=1) + "\n")
                answer.write_recipes(out, settled, found)
                return found

            search = Search(plan, book, changed=write, away=place is not None)
            if place:
                machines.direct(search, place, out, _about(recipe, source), patience)
            else:
                here.train(search, settled, out, jobs)
            shutil.rmtree(out / "weights", ignore_errors=True)  # of what might have been trained on
            found = {**write(), "importance": answer.importance(book.trials())}
            runs.write_text(out / "trials.json", json.dumps(found, indent=1) + "\n")
        if len(found["trials"]) < trials:
            print(
                f"no other network was found: {len(found['trials'])} of {trials} trials",
                file=sys.stderr,
            )
        if found["best"] is None:
            reasons = {row["why"] for row in found["trials"]} or {"the space is exhausted"}
            raise UsageError(
                f"no trial of {out} was trained to its end: {'; '.join(sorted(reasons))}"
            )
        if (short := answer.shortened(found, epochs)) is not None:
            print(
                f"none was trained for all {epochs} epochs; the best is of {short}", file=sys.stderr
            )
        pictures.write(out / "report.html", recipe, found)
        return found


def work(
    recipe: Recipe,
    out: str | Path,
    chief: str,
    *,
    patience: float = PATIENCE,
    name: str | None = None,
) -> int:
    """Train what the chief of a search hands out, until all is done.

    Args:
        recipe: the chief's.
        out: folder for the data, prepared once; the chief's own, on its machine.
        chief: HOST:PORT where it listens.
        patience: seconds to try to reach it, at first and whenever it is lost.
        name: of this worker; None makes one of the machine's and the process's.

    Returns:
        How many trials were trained here.

    Raises:
        UsageError: where it cannot be reached, or is of another search.
    """
    out, place = Path(out), address(chief)
    given_secret()
    recipe, source = _resolved(recipe)
    about = _about(recipe, source)
    with runs.full_disk(out), Trainer() as trainer:
        runs.prepare_folder(out)
        done = machines.serve(recipe, place, out, about, patience, trainer, name)
    shutil.rmtree(out / "weights", ignore_errors=True)
    return done


def _resolved(recipe: Recipe) -> tuple[Recipe, data.Source]:
    if recipe.train.patience is not None:
        raise UsageError("train.patience: all trials of a search are trained for train.epochs")
    if recipe.model.weights is not None:
        raise UsageError(
            "model.weights: they fit only the network as it stands; a search trains from scratch"
        )
    zoo.spec_of(recipe.model.name, recipe.model.spec)
    source = runs.open_data(recipe)
    return train.resolve(recipe, source), source


def _start(recipe: Recipe) -> str:
    """Return what to call the network that the search starts from."""
    name, width = recipe.model.name, recipe.model.width
    given, papers = zoo.spec_of(name, recipe.model.spec), zoo.spec_of(name)
    if any(of(given) != of(papers) for of in (specs.filters, spaces.depths)):
        return "the network as given"
    return "the paper's split" + (f", at {width:g} of its width" if width != 1 else "")


def _left_out(market: Market) -> str:
    price = market.price(market.space.default)
    costs = "is none at this size" if price is None else f"has {price.macs:,} MACs"
    return f"the network as it stands {costs}, outside the budget: left out"


def _too_slow(market: Market, refused: Sequence[Mapping[str, Any]]) -> str | None:
    paper = market.key(market.space.default)
    slow = (trial["why"] for trial in refused if market.key(trial["values"]) == paper)
    why = next(slow, None)
    return why and f"the network as it stands: {why}: left out"


def _about(recipe: Recipe, source: data.Source) -> dict[str, Any]:
    """Return what the machines of a search must agree on; where each has its data is its own."""
    told = asdict(recipe)
    told["data"] |= {"name": Path(recipe.data.name).name, "dir": None}
    images = {"images": dict(source.sizes), "digests": dict(source.digests)}
    return json.loads(json.dumps({"recipe": told, "labels": source.labels, **images}))


def _open_folder(
    out: Path,
    recipe: Recipe,
    source: data.Source,
    settings: Mapping[str, Any],
    *,
    elsewhere: bool = False,
) -> Recipe:
    """Make the folder of a search, or find in it the same search.

    Returns:
        The recipe, with what it leaves to the machine decided as the search began.
    """
    place = out / "search.json"
    try:
        there = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None
    except ValueError:
        raise UsageError(
            f"{place} cannot be read; bring it back, or choose another --out"
        ) from None
    begun = Train(**there["recipe"]["train"]) if there else None
    recipe = replace(recipe, train=machine.settle(recipe.train, begun, elsewhere=elsewhere))
    # As JSON has it, which knows no tuples.
    kept = json.loads(json.dumps({"recipe": asdict(recipe), **settings}))
    if there:
        digests = there.pop("digests", {})  # of an unreleased version there are none
        difference = runs.first_difference(there, kept)
        if difference:
            raise UsageError(f"{out} holds another search: {difference}; choose another --out")
        arrays.check(source, digests)
    else:
        runs.prepare_folder(out)
        kept["digests"] = dict(source.digests)
        runs.write_text(place, json.dumps(kept, indent=1) + "\n")
    if not (out / "recipe.toml").is_file():
        runs.write_text(out / "recipe.toml", recipes.to_toml(recipe))
    return recipe


def _found(plan: Plan, book: Book) -> dict[str, Any]:
    records = list(book.records.values())
    found = answer.summary(records, plan.market)
    repeats = answer.compared(records, plan.repeat_on, plan.repeat)
    return {**found, "repeats": repeats, "winner": repeats and repeats["winner"]}
