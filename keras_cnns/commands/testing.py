"""evaluate and predict: what a run gets right, and what it says of images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keras_cnns.errors import UsageError
from keras_cnns.terminal import (
    DATA_HELP,
    as_json,
    data_dir,
    precision,
    print_json,
    table,
    working,
)


def looks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which parts of an image are looked at."""
    for option in (
        click.option("--flip", is_flag=True, help="Of crops 1, 5 and dense the mirror images too."),
        click.option(
            "--scales", metavar="256,...", help="Short sides for a network of 224 pixels [256 ...]."
        ),
        click.option(
            "--crops", default="1", show_default=True, help="1, 5, 10, 144 or dense; averaged."
        ),
    ):
        command = option(command)
    return command


def _views(crops: str, scales: str | None, flip: bool) -> Any:
    from keras_cnns.crops import views

    if scales is None:
        return views(crops, flip=flip)
    try:
        wanted = [int(word) for word in scales.split(",")]
    except ValueError:
        raise UsageError(
            f'--scales "{scales}": write whole numbers with commas, as 256,384,512'
        ) from None
    return views(crops, wanted, flip=flip)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--data",
    help=f"{DATA_HELP} Without a test split all is tested [the run's own, split as it was].",
)
@data_dir
@looks
@click.option("--ensemble", is_flag=True, help="Average the probabilities of several runs.")
@precision
@as_json
def evaluate(
    runs: tuple[Path, ...],
    data: str | None,
    data_dir: str | None,
    crops: str,
    scales: str | None,
    flip: bool,
    ensemble: bool,
    precision: str,
    as_json: bool,
) -> None:
    """Measure a run, or several together, on the test split.

    What one run gets on its own data is kept in its metrics.json and report.html.
    """
    from keras_cnns.runs import open_run

    views = _views(crops, scales, flip)
    if ensemble == (len(runs) == 1):
        count = "one run" if ensemble else f"{len(runs)} runs"
        raise UsageError(f"received {count}; give one, or several with --ensemble")
    members = [open_run(run) for run in runs]
    with working():
        from keras_cnns import evaluate as evaluation, summary

        sources = evaluation.open_sources(members, data, data_dir=data_dir)
        if ensemble:
            found = evaluation.ensemble(members, sources, precision=precision, views=views)
        elif data is None:
            found = summary.summarise(
                members[0], "test", sources[0], precision=precision, views=views
            )
        else:
            found = evaluation.evaluate(members[0], sources[0], precision=precision, views=views)
    if as_json:
        return print_json(found["metrics"])
    _say(found["metrics"])


def _say(found: dict[str, Any]) -> None:
    """Print an evaluation: a table of an ensemble's members, a line, the classes it knows least."""
    if "members" in found:
        keys = ("run", "accuracy", "top5", "loss", "calibration_error")
        header = ("run", "accuracy", "top-5", "loss", "calibration error")
        rows = [tuple(member[key] for key in keys) for member in found["members"]]
        table(header, [*rows, ("together", *(found[key] for key in keys[1:]))])
    low, high = found["accuracy_interval"]
    click.echo(
        f"accuracy {found['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"top-5 {found['top5']:.2%}, loss {found['loss']:.4f}, "
        f"calibration error {found['calibration_error']:.2%} "
        f"on {found['images']:,} test images, in {found['precision']} "
        f"(error {found['precision_error']:.1e})"
    )
    known = {k: v["accuracy"] for k, v in found["per_class"].items() if v["images"]}
    least = sorted(known, key=lambda label: known[label])[:3]
    if known[least[0]] < 1:
        click.echo("least known: " + ", ".join(f"{name} {known[name]:.2%}" for name in least))


@click.command()
@click.argument("model", metavar="RUN|ARTIFACT", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--top", default=5, show_default=True, type=click.IntRange(1), help="How many classes."
)
@looks
@click.option("--ensemble", is_flag=True, help="Average all runs and artifacts before the images.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write a submission here.")
@click.option(
    "--csv-format",
    default="labels",
    show_default=True,
    help="labels: a row an image; probabilities: a column a class; table: the --top classes.",
)
@click.option("--columns", help="The CSV's header, as ImageId,Label or id,label=dog [id,label].")
@click.option("--ids", default="stem", show_default=True, help="Of images: stem, name or path.")
@precision
@as_json
def predict(
    model: Path,
    images: tuple[Path, ...],
    top: int,
    crops: str,
    scales: str | None,
    flip: bool,
    ensemble: bool,
    csv_file: Path | None,
    csv_format: str,
    columns: str | None,
    ids: str,
    precision: str,
    as_json: bool,
) -> None:
    """Classify images, or folders of them, by a run or an exported file."""
    from keras_cnns import submission

    views = _views(crops, scales, flip)
    wanted = submission.submission(csv_format, columns.split(",") if columns else None, ids)
    if csv_file is None and (csv_format, columns, ids) != ("labels", None, "stem"):
        raise UsageError("--csv-format, --columns and --ids are for --csv FILE; give that too")
    with working():
        from keras_cnns import predict, runs

        models, places = predict.members([model, *images]) if ensemble else ([model], images)
        files = predict.image_files(places)
        if csv_file:
            if csv_file.is_dir():
                raise UsageError(f"{csv_file} is a folder; --csv is a file")
            submission.unique_ids(files, wanted.ids)
            runs.prepare_folder(csv_file.resolve().parent)
        opened = [predict.open_classifier(m, precision=precision, views=views) for m in models]
        for place, classifier in zip(models, opened, strict=True):
            if classifier.note:
                click.echo(f"{place}: {classifier.note}", err=True)
        labels = opened[0].labels
        if wanted.form == "probabilities":
            submission.class_columns(wanted, labels)
        scores = predict.probabilities(opened, files, views=views)
        found = predict.best(scores, files, labels, top=top)
        if csv_file:
            rows = submission.rows(wanted, files, labels, scores, found)
            submission.write(csv_file, rows)
    if as_json:
        return print_json(found)
    table(
        ("file", "label", "score"),
        [(r["file"], g["label"], g["score"]) for r in found for g in r["top"]],
    )
