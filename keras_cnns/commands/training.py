"""train: from a recipe to a run folder."""

import json
from pathlib import Path
from typing import Any

import click

from keras_cnns.terminal import DATA_HELP, data_dir, recipe_of, settings, working


@click.command()
@click.argument("network", metavar="NET|RECIPE.toml")
@click.option("--data", required=True, help=DATA_HELP)
@data_dir
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option(
    "--deterministic/--no-deterministic",
    default=None,
    help="Equal runs are bit-equal on one machine, somewhat slower [on a CPU].",
)
@settings
def train(
    network: str,
    data: str,
    data_dir: str | None,
    out: Path,
    deterministic: bool | None,
    settings: Any,
) -> None:
    """Train a network into a run folder; the same command again resumes it."""
    recipe = recipe_of(network, data, data_dir, settings)
    with working():
        from keras_cnns.train import train

        run = train(recipe, out, deterministic=deterministic)
    metrics = json.loads((run.path / "metrics.json").read_text())["validation"]
    click.echo(f"{run.path}: validation accuracy {metrics['accuracy']:.2%}; see report.html")
