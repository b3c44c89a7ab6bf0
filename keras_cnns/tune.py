"""Search a network's filters with KerasTuner; the network as it stands is the first trial."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

from keras_cnns import data, recipe as recipes, report, runs, spec as specs, train, zoo
from keras_cnns.cost import Cost, cost
from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe
from keras_cnns.space import choices, shrunk, with_values

PROPOSALS = 2000  # samples drawn for one trial before the space counts as exhausted
OBJECTIVE = "val_accuracy"


def cost_of(recipe: Recipe, classes: int, spec: Any) -> Cost:
    """Return what a spec costs at the recipe's image size: arithmetic, no model."""
    shape = recipe.data.image_shape
    return cost(recipe.model.name, input_shape=shape, num_classes=classes, spec=spec)


def tune(
    recipe: Recipe, out: str | Path, *, trials: int, max_macs: int | None = None
) -> dict[str, Any]:
    """Train `trials` networks of different filters within a budget; the best by validation wins.

    Called again with the same recipe on the same folder, it goes on where it stopped.

    Args:
        recipe: the network whose filters are searched, and how each trial is trained.
        out: folder for the search's state, trials.json, best.toml and report.html.
        trials: how many networks to train in all.
        max_macs: multiply-adds that no trial may exceed; a proposal above is narrowed, unbuilt,
            until it fits.

    Returns:
        {"trials": [{id, values, spec, params, macs, score, status, why}], "best", "pareto",
        "paper" (the id of the first), "narrowed", "start", "max_macs", "objective"}.

    Raises:
        UsageError: as `train.train`, and where nothing fits the budget: the cheapest is named.
    """
    if trials < 1:
        raise UsageError(f"received {trials} trials, but at least 1 is needed")
    out = Path(out)
    zoo.spec_of(recipe.model.name, recipe.model.spec)
    runs.check_folder(out, "search.json", "search")
    source = runs.open_data(recipe)
    start = _start(recipe)
    recipe = train.resolve(recipe, source)
    _check_budget(recipe, len(source.labels), max_macs)
    _open_folder(out, recipe, {"max_macs": max_macs})
    _search(recipe, source, out, trials, max_macs, start)
    found = read(out)
    if len(found["trials"]) < trials:
        print(f"the space has only {len(found['trials'])} networks", file=sys.stderr)
    if found["best"] is None:
        reasons = {row["why"] for row in found["trials"]} or {"the space is exhausted"}
        raise UsageError(f"no trial of {out} was trained to its end: {'; '.join(sorted(reasons))}")
    write_report(out, recipe, found)
    return found


def _start(recipe: Recipe) -> str:
    """Return what to call the network that the search starts from."""
    name, width = recipe.model.name, recipe.model.width
    if specs.filters(zoo.spec_of(name, recipe.model.spec)) != specs.filters(zoo.spec_of(name)):
        return "the network as given"
    return "the paper's split" + (f", at {width:g} of its width" if width != 1 else "")


def _spec(recipe: Recipe) -> Any:
    return zoo.spec_of(recipe.model.name, recipe.model.spec)


def _check_budget(recipe: Recipe, classes: int, max_macs: int | None) -> None:
    """Refuse a budget below the cheapest point; say so if the network as it stands is above."""
    if max_macs is None:
        return
    spec = _spec(recipe)
    narrow = specs.map_filters(lambda _, n: min(choices(n)), spec)
    least = cost_of(recipe, classes, narrow).macs
    if least > max_macs:
        raise UsageError(
            f"no network fits --max-macs {max_macs:,}: the cheapest of the space has {least:,}"
        )
    paper = cost_of(recipe, classes, spec).macs
    if paper > max_macs:
        print(
            f"the network as it stands has {paper:,} MACs, more than {max_macs:,}: left out",
            file=sys.stderr,
        )


def _open_folder(out: Path, recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Make the folder of a search, or find in it the same search."""
    place = out / "search.json"
    kept = {"recipe": asdict(recipe), **settings}
    if place.is_file():
        difference = runs.first_difference(json.loads(place.read_text()), kept)
        if difference:
            raise UsageError(f"{out} holds another search: {difference}; choose another --out")
        return
    runs.prepare_folder(out)
    runs.write_text(out / "recipe.toml", recipes.to_toml(recipe))
    runs.write_text(place, json.dumps(kept, indent=1) + "\n")


def _search(
    recipe: Recipe,
    source: data.Source,
    out: Path,
    trials: int,
    max_macs: int | None,
    start: str,
) -> None:
    """Run the trials that are still missing, and keep trials.json in step."""
    import keras
    import keras_tuner
    from keras_tuner.engine.trial import TrialStatus
    from keras_tuner.src import config

    config.DEBUG = False  # else it prints the traceback of a failed trial; the reason is in `why`

    spec, classes = _spec(recipe), len(source.labels)

    def price(values: Mapping[str, int]) -> int:
        return cost_of(recipe, classes, with_values(spec, values)).macs

    widths = {path: choices(n) for path, n in specs.filters(spec).items()}
    space = keras_tuner.HyperParameters()
    for path, n in specs.filters(spec).items():
        space.Choice(path, widths[path], default=n)

    class FeasibleRandom(keras_tuner.oracles.RandomSearchOracle):
        """Random points, new ones and within the budget; the network as it stands first."""

        narrowed = 0

        def get_state(self) -> dict[str, Any]:
            return {**super().get_state(), "narrowed": self.narrowed}

        def set_state(self, state: dict[str, Any]) -> None:
            super().set_state(state)
            self.narrowed = state["narrowed"]

        def populate_space(self, trial_id: str) -> dict[str, Any]:
            seen = [trial.hyperparameters.values for trial in self.trials.values()]
            given = {p.name: p.default for p in space.space}
            for draw in range(PROPOSALS):
                values = given if draw == 0 and not seen else self._random_values()
                if values is None:
                    break
                if max_macs is not None and price(values) > max_macs:
                    self.narrowed += 1
                    values = shrunk(values, widths, price, max_macs, Random(f"{trial_id} {draw}"))
                if values not in seen:
                    return {"status": TrialStatus.RUNNING, "values": values}
            return {"status": TrialStatus.STOPPED, "values": None}

    class SpecTuner(keras_tuner.Tuner):
        """Trains each point by the recipe."""

        def run_trial(self, trial: Any, *_: Any, **__: Any) -> Any:
            point = with_values(spec, trial.hyperparameters.values)
            size = cost_of(recipe, classes, point)
            done = len([t for t in self.oracle.trials.values() if t.status != "RUNNING"])
            print(
                f"trial {done + 1} of {trials}: {size.macs:,} MACs, {size.params:,} parameters",
                file=sys.stderr,
            )
            keras.backend.clear_session()
            model_recipe = replace(recipe, model=replace(recipe.model, spec=specs.to_dict(point)))
            history = fit(model_recipe, source)
            return {OBJECTIVE: history[OBJECTIVE][-1]}

        def on_trial_end(self, trial: Any) -> None:
            super().on_trial_end(trial)
            write_trials(self.oracle)

    def write_trials(oracle: Any) -> None:
        in_order = sorted(oracle.trials.values(), key=lambda trial: int(trial.trial_id))
        rows = [_row(trial, recipe, classes, spec) for trial in in_order]
        found = _summary(rows, specs.filters(spec))
        found |= {"narrowed": oracle.narrowed, "max_macs": max_macs, "start": start}
        runs.write_text(out / "trials.json", json.dumps(found, indent=1) + "\n")
        best = next((row for row in rows if row["id"] == found["best"]), None)
        if best:
            found_recipe = replace(recipe, model=replace(recipe.model, spec=best["spec"]))
            runs.write_text(out / "best.toml", recipes.to_toml(found_recipe))

    oracle = FeasibleRandom(
        objective=keras_tuner.Objective(OBJECTIVE, "max"),
        max_trials=trials,
        hyperparameters=space,
        allow_new_entries=False,
        tune_new_entries=False,
        seed=recipe.seed + 1,  # KerasTuner takes 0 for "no seed"
        max_consecutive_failed_trials=trials + 1,
    )
    tuner = SpecTuner(oracle, directory=out, project_name="state", overwrite=False)
    tuner.search(verbose=0)
    write_trials(oracle)


def fit(recipe: Recipe, source: data.Source) -> Mapping[str, Sequence[float]]:
    """Train a resolved recipe without a folder, and return its history."""
    import keras

    model = train.build(recipe, len(source.labels))
    names = train.output_names(recipe, model)
    trained = train.batches(recipe, source, "train", names)
    held_out = train.batches(recipe, source, "validation", names)
    steps = data.steps_per_epoch(source, recipe.data.batch_size)
    trainer = train.compiled(model, recipe, steps)
    history = trainer.fit(
        trained,
        validation_data=held_out,
        validation_freq=recipe.train.epochs,  # its last epoch's is a trial's score
        epochs=recipe.train.epochs,
        steps_per_epoch=steps,
        shuffle=False,
        callbacks=[keras.callbacks.TerminateOnNaN()],
        verbose=0,
    )
    if not math.isfinite(history.history["loss"][-1]):
        raise ArithmeticError("the loss is not finite; choose a lower train.learning_rate")
    return {k.replace("predictions_", ""): v for k, v in history.history.items()}


def _row(trial: Any, recipe: Recipe, classes: int, spec: Any) -> dict[str, Any]:
    values = trial.hyperparameters.values
    point = with_values(spec, values)
    price = cost_of(recipe, classes, point)
    return {
        "id": trial.trial_id,
        "values": values,
        "spec": specs.to_dict(point),
        "params": price.params,
        "macs": price.macs,
        "score": trial.score,
        "status": trial.status.lower(),
        "why": _reason(trial.message or ""),
    }


def _reason(message: str) -> str:
    """Return the end of a traceback without the name of the exception's class."""
    last = (["", *message.strip().splitlines()])[-1]
    return last.partition(": ")[2] or last


def _summary(rows: list[dict[str, Any]], paper: Mapping[str, int]) -> dict[str, Any]:
    """Name the best trial, those that no other beats in accuracy and MACs, and the first."""
    done = [row for row in rows if row["status"] == "completed" and row["score"] is not None]
    front = [
        row
        for row in done
        if not any(
            (other["score"] >= row["score"] and other["macs"] < row["macs"])
            or (other["score"] > row["score"] and other["macs"] <= row["macs"])
            for other in done
        )
    ]
    best = max(done, key=lambda row: (row["score"], -row["macs"]), default=None)
    return {
        "trials": rows,
        "best": best["id"] if best else None,
        "pareto": [row["id"] for row in sorted(front, key=lambda row: row["macs"])],
        "paper": next((row["id"] for row in rows if row["values"] == paper), None),
        "objective": "validation accuracy",
    }


def read(out: str | Path) -> dict[str, Any]:
    """Return the trials of a search folder.

    Raises:
        UsageError: where the folder holds no search.
    """
    place = Path(out) / "trials.json"
    if not place.is_file():
        raise UsageError(f"{out} holds no trials; give a folder that keras-cnns tune wrote")
    return json.loads(place.read_text(encoding="utf-8"))


def write_report(out: Path, recipe: Recipe, found: dict[str, Any]) -> None:
    """Write report.html of a search."""
    done = [row for row in found["trials"] if row["score"] is not None]
    facts = {
        "best validation accuracy": f"{max((r['score'] for r in done), default=0):.2%}",
        "network": recipe.model.name,
        "data": recipe.data.name,
        "trials": str(len(found["trials"])),
        "narrowed to fit": str(found["narrowed"]),
    }
    title = f"Search over the filters of {recipe.model.name}"
    report.write(out / "report.html", title, facts=facts, trials=found)
