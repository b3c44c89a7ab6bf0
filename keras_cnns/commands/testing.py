"""evaluate and predict: what a run gets right, and what it says of images."""

import csv
from pathlib import Path

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


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", help=f"{DATA_HELP} [the run's own]")
@data_dir
@precision
@as_json
def evaluate(
    run: Path, data: str | None, data_dir: str | None, precision: str, as_json: bool
) -> None:
    """Measure a run on the test split."""
    from keras_cnns import runs

    opened = runs.open_run(run)
    with working():
        from keras_cnns import evaluate as evaluation, train

        source = runs.open_data(runs.with_data(opened.recipe, data), data_dir=data_dir)
        if data is None:
            found = train.summarise(opened, "test", source, precision=precision)["metrics"]
        else:
            found = evaluation.evaluate(opened, source, "test", precision=precision)["metrics"]
    if as_json:
        return print_json(found)
    click.echo(
        f"accuracy {found['accuracy']:.2%}, top-5 {found['top5']:.2%}, loss {found['loss']:.4f} "
        f"on {found['images']:,} test images, in {found['precision']} "
        f"(error {found['precision_error']:.1e})"
    )


@click.command()
@click.argument("model", metavar="RUN|ARTIFACT", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--top", default=5, show_default=True, type=click.IntRange(1), help="How many classes."
)
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Also write a table here.")
@precision
@as_json
def predict(
    model: Path,
    images: tuple[Path, ...],
    top: int,
    csv_file: Path | None,
    precision: str,
    as_json: bool,
) -> None:
    """Classify images, or folders of them, by a run or an exported file."""
    with working():
        from keras_cnns import predict, runs

        files = predict.image_files(images)
        if csv_file:
            if csv_file.is_dir():
                raise UsageError(f"{csv_file} is a folder; --csv is a file")
            runs.prepare_folder(csv_file.resolve().parent)
        found = predict.predict(predict.open_classifier(model, precision=precision), files, top=top)
        if csv_file:
            with runs.replacing(csv_file) as temporary, temporary.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["file", "rank", "label", "score"])
                for row in found:
                    for rank, guess in enumerate(row["top"], 1):
                        writer.writerow([row["file"], rank, guess["label"], guess["score"]])
    if as_json:
        return print_json(found)
    rows = [(r["file"], g["label"], g["score"]) for r in found for g in r["top"]]
    table(("file", "label", "score"), rows)
