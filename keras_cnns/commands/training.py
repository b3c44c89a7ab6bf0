"""train and tune: from a recipe to a run folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_cnns.terminal import (
    DATA_HELP,
    Amount,
    as_json,
    data_dir,
    print_json,
    settings,
    table,
    working,
)

if TYPE_CHECKING:
    from keras_cnns.recipe import Recipe


def _recipe(network: str, data: str, data_dir: str | None, settings: tuple[str, ...]) -> "Recipe":
    from dataclasses import replace

    from keras_cnns import recipe as recipes, zoo

    recipe = recipes.load(network)
    recipe = replace(recipe, data=replace(recipe.data, name=data, dir=data_dir or recipe.data.dir))
    recipe = recipes.override(recipe, settings)
    zoo.get(recipe.model.name)
    return recipe


@click.command()
@click.argument("network", metavar="NET|RECIPE.toml")
@click.option("--data", required=True, help=DATA_HELP)
@data_dir
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option("--deterministic", is_flag=True, help="Equal runs are bit-equal; somewhat slower.")
@settings
def train(
    network: str, data: str, data_dir: str | None, out: Path, deterministic: bool, settings: Any
) -> None:
    """Train a network into a run folder; the same command again resumes it."""
    recipe = _recipe(network, data, data_dir, settings)
    with working():
        from keras_cnns.train import train

        run = train(recipe, out, deterministic=deterministic)
    metrics = json.loads((run.path / "metrics.json").read_text())["validation"]
    click.echo(f"{run.path}: validation accuracy {metrics['accuracy']:.2%}; see report.html")


@click.command()
@click.argument("network", metavar="NET|RECIPE.toml")
@click.option("--data", required=True, help=DATA_HELP)
@data_dir
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The search's folder.")
@click.option("--trials", required=True, type=click.IntRange(1), help="Networks to train in all.")
@click.option("--max-macs", type=Amount(), help="No trial above so many multiply-adds [no limit].")
@settings
@as_json
def tune(
    network: str,
    data: str,
    data_dir: str | None,
    out: Path,
    trials: int,
    max_macs: int | None,
    settings: Any,
    as_json: bool,
) -> None:
    """Search a network's filters; the network as it stands is the first trial."""
    recipe = _recipe(network, data, data_dir, settings)
    with working():
        from keras_cnns.tune import tune

        found = tune(recipe, out, trials=trials, max_macs=max_macs)
    if as_json:
        return print_json(found)
    rows = [
        (t["id"], t["score"], t["macs"], t["params"], t["status"], t["why"])
        for t in found["trials"]
    ]
    table(("trial", "accuracy", "MACs", "params", "status", "why"), rows)
    click.echo(f"best: {found['best']}; {out}/best.toml is a recipe, {out}/report.html the picture")
