"""tune: a search on one machine or several, and what it says."""

import os
from pathlib import Path
from typing import Any

import click

from keras_cnns.errors import UsageError
from keras_cnns.terminal import (
    DATA_HELP,
    Amount,
    as_json,
    data_dir,
    print_json,
    recipe_of,
    settings,
    table,
    working,
)


def _environment() -> tuple[str | None, str | None, str | None]:
    """Return chief, worker and the worker's name, as KerasTuner's users set them."""
    name, host, port = (
        os.environ.get(f"KERASTUNER_{key}") for key in ("TUNER_ID", "ORACLE_IP", "ORACLE_PORT")
    )
    if not name:
        return None, None, None
    if not host or not port:
        raise UsageError(
            "KERASTUNER_TUNER_ID is set, but KERASTUNER_ORACLE_IP or KERASTUNER_ORACLE_PORT is "
            "not; set all three, or none and give --chief or --worker"
        )
    place = f"{host}:{port}"
    return (place, None, None) if name == "chief" else (None, place, name)


@click.command()
@click.argument("network", metavar="NET|RECIPE.toml")
@click.option("--data", required=True, help=DATA_HELP)
@data_dir
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The search's folder.")
@click.option("--trials", default=20, show_default=True, type=int, help="Networks to train in all.")
@click.option(
    "--space",
    help="What is searched: ratios (shares of the branches), widths (each layer's), rows (all of "
    "a row or stage), reductions (within branches), depths [ratios; rows without branches].",
)
@click.option("--free-totals", is_flag=True, help="Of ratios: widths of rows as well [kept].")
@click.option(
    "--tie",
    multiple=True,
    metavar="PREFIX",
    help="Names so begun share a value, as 4; the longest counts [none].",
)
@click.option(
    "--oracle",
    default="random",
    show_default=True,
    help="What is tried next: random, evolution, pareto (NSGA-II, accuracy and MACs); "
    "KerasTuner's kerastuner (random), bayesian, hyperband. None repeats itself or leaves the "
    "budget; what hyperband trains for longer again counts as another trial.",
)
@click.option("--max-macs", type=Amount(), help="No trial above so many multiply-adds [no limit].")
@click.option("--min-macs", type=Amount(), help="No trial below so many multiply-adds [no limit].")
@click.option("--max-params", type=Amount(), help="No trial above so many weights [no limit].")
@click.option(
    "--max-activation-mb",
    type=click.FloatRange(0, min_open=True),
    help="No trial that needs more megabytes of feature maps at once, in float32 [no limit].",
)
@click.option(
    "--max-latency-ms",
    type=click.FloatRange(0, min_open=True),
    help="No trial slower for one image, on one thread, measured where it is trained, with --jobs "
    "beside the others [no limit].",
)
@click.option("--latency-of", default="tflite", show_default=True, help="As which file: or onnx.")
@click.option(
    "--repeat",
    default=0,
    show_default=True,
    help="Train the best other and the network as it stands anew, with so many seeds; compare on "
    "the test split. More of them after a look at p make it worth nothing.",
)
@click.option(
    "--finalists", default=1, show_default=True, help="How many of the best others to repeat."
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    help="Trials at a time on this machine, each on its share of the cores. With several, an "
    "oracle that heeds scores proposes by which trial ends first.",
)
@click.option(
    "--chief",
    metavar="HOST:PORT",
    help="Hand out the trials to workers, and decide for them what the recipe leaves to the "
    "machine [train them here].",
)
@click.option(
    "--worker",
    metavar="HOST:PORT",
    help="Train what the chief there hands out. KERASTUNER_TUNER_ID (chief, or a name for each "
    "worker), KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT stand for --chief and --worker.",
)
@click.option(
    "--patience",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds that chief and workers wait for each other.",
)
@settings
@as_json
def tune(
    network: str,
    data: str,
    data_dir: str | None,
    out: Path,
    trials: int,
    chief: str | None,
    worker: str | None,
    patience: float,
    tie: tuple[str, ...],
    settings: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Search a network's filters; the network as it stands is the first trial.

    The same command again on the same folder goes on. On several machines: the same command
    everywhere, with --chief on one and --worker on the others.
    """
    if chief and worker:
        raise UsageError("received --chief and --worker; a machine is one of them")
    name = None
    if not (chief or worker):
        chief, worker, name = _environment()
        if chief or worker:
            role = f"the chief at {chief}" if chief else f"a worker of {worker}"
            click.echo(f"KERASTUNER_TUNER_ID is set: this is {role}", err=True)
    if (chief or worker) and options["jobs"] != 1:
        raise UsageError("received --jobs beside --chief or --worker; start more workers instead")
    recipe = recipe_of(network, data, data_dir, settings)
    with working():
        from keras_cnns import tune as search

        if worker:
            done = search.work(recipe, out, worker, patience=patience, name=name)
            click.echo(f"the search is done; {done} trials were trained here", err=True)
            return
        found = search.tune(
            recipe, out, trials=trials, tied=tie, chief=chief, patience=patience, **options
        )
    if as_json:
        return print_json(found)
    rows = [
        (t["id"], t["score"], t["macs"], t["params"], t["status"], t["why"])
        for t in found["trials"]
    ]
    table(("trial", "accuracy", "MACs", "params", "status", "why"), rows)
    click.echo(f"\n{found['rejected']} proposals were turned down before a model was built")
    if found["repeats"]:
        _repeats(found)
    click.echo(
        f"best: {found['best']}; {out}/best.toml and {out}/pareto/*.toml are recipes, "
        f"{out}/report.html the picture"
    )


def _repeats(found: dict[str, Any]) -> None:
    repeats, networks = found["repeats"], found["repeats"]["networks"]
    header = (
        "repeated",
        "seeds",
        "failed",
        f"{repeats['split']} accuracy",
        "deviation",
        "gain",
        "p",
    )
    keys = ("mean", "deviation", "difference", "p")
    rows = [
        (r["id"], len(r["seeds"]), len(r["failed"]), *(r[key] for key in keys)) for r in networks
    ]
    click.echo()
    table(header, rows)
    if repeats["winner"]:
        click.echo(f"winner: {repeats['winner']}")
    elif reasons := {failed["why"] for row in networks for failed in row["failed"]}:
        click.echo(f"no winner: what failed is not compared ({'; '.join(sorted(reasons))})")
    elif any(row["p"] is not None for row in networks):
        click.echo("no winner: none is surely better")
    else:
        click.echo("no winner: there was nothing to test")
