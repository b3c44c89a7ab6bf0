"""train, report, compare: from a recipe to a run folder, and what is to be seen in it."""

import json
from pathlib import Path
from typing import Any

import click

from keras_cnns.terminal import (
    DATA_HELP,
    as_json,
    data_dir,
    print_json,
    recipe_of,
    settings,
    table,
    working,
)


@click.command()
@click.argument("network", metavar="NET|RECIPE.toml")
@click.option("--data", required=True, help=DATA_HELP)
@data_dir
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option(
    "--deterministic/--no-deterministic",
    default=None,
    help="Equal runs are bit-equal on one machine, and a few per cent slower "
    "(0 to 4 in experiments/speed/training.json) [on a CPU].",
)
@click.option("--strict", is_flag=True, help="Refuse a folder in which doctor finds fault.")
@click.option("--workers", help="host:port of each machine that trains, with commas [TF_CONFIG].")
@click.option("--index", type=int, help="Which of the workers this machine is, from 0.")
@settings
def train(
    network: str,
    data: str,
    data_dir: str | None,
    out: Path,
    deterministic: bool | None,
    strict: bool,
    workers: str | None,
    index: int | None,
    settings: Any,
) -> None:
    """Train a network into a run folder; the same command again resumes it."""
    recipe = recipe_of(network, data, data_dir, settings)
    with working():
        from keras_cnns.train import train

        cluster = workers.split(",") if workers else ()
        run = train(
            recipe,
            out,
            deterministic=deterministic,
            workers=cluster,
            index=index,
            strict=strict,
        )
    metrics = json.loads((run.path / "metrics.json").read_text())["validation"]
    click.echo(f"{run.path}: validation accuracy {metrics['accuracy']:.2%}; see report.html")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="What the page's confusions and mistakes are of.",
)
@data_dir
@as_json
def report(run: Path, split: str, data_dir: str | None, as_json: bool) -> None:
    """Write a run's report.html: curves, confusions, worst mistakes; print the classes.

    Of a run that has not ended it has the curves alone.
    """
    from keras_cnns import runs

    opened = runs.open_run(run)
    with working():
        from keras_cnns import summary

        if not (run / "model.keras").is_file():
            summary.write_page(opened)
            found = []
        else:
            source = runs.open_data(opened.recipe, data_dir=data_dir)
            runs.check_data(opened, source, [split], "train the run anew")
            found = _classes(summary.summarise(opened, split, source))
    if as_json:
        return print_json({"report": str(run / "report.html"), "classes": found})
    if found:
        table(tuple(found[0]), [tuple(row.values()) for row in found])
    click.echo(f"{run / 'report.html'}")


def _classes(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return how many images of each class were found, and how many called so were of it."""
    called = evaluation["confusion"].sum(0)
    right = evaluation["confusion"].diagonal()
    return [
        {
            "class": label,
            "images": found["images"],
            "recall": found["accuracy"],
            "precision": float(hits / guesses) if guesses else None,
        }
        for (label, found), hits, guesses in zip(
            evaluation["metrics"]["per_class"].items(), right, called, strict=True
        )
    ]


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@as_json
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Put runs side by side: their figures, and the keys of their recipes that differ."""
    from keras_cnns import compare, runs as folders

    found = compare.compare([folders.open_run(run) for run in runs])
    if as_json:
        return print_json(found)
    table(tuple(found["runs"][0]), [tuple(row.values()) for row in found["runs"]])
    if found["differences"]:
        click.echo()
        header = ("key", *(row["run"] for row in found["runs"]))
        rows = [(key, *map(str, values)) for key, values in found["differences"].items()]
        table(header, rows)
