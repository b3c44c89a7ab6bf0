"""The commands: they parse and print; the work is elsewhere, and Keras is imported only for it."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from keras_cnns import __version__
from keras_cnns.errors import UsageError
from keras_cnns.terminal import Amount, print_json, table, working

if TYPE_CHECKING:
    import numpy as np

    from keras_cnns.recipe import Recipe
    from keras_cnns.trace import Row


class Commands(click.Group):
    """Ends with one line on standard error: exit 2 for the user's mistake, 1 for a failed check."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except UsageError as error:
            _end(str(error), 2)
        except KeyboardInterrupt:
            lasting = context.invoked_subcommand in ("train", "tune", "demo")
            _end("stopped" + "; the same command goes on from here" * lasting, 130)
        except RuntimeError as error:
            if type(error).__name__ == "ExportError":
                _end(str(error), 1)
            raise


def _end(message: str, status: int) -> NoReturn:
    click.echo(f"keras-cnns: {' '.join(message.split())}", err=True)
    sys.exit(status)


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
data_dir = click.option("--data-dir", help="Where TFDS keeps its data sets [TFDS_DATA_DIR].")
settings = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe."
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    help="Of a run's network [auto: bfloat16 where the processor has instructions for it].",
)
DATA_HELP = "digits, a TFDS name, or a folder with one sub-folder of images per class."


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keras-cnns")
def main() -> None:
    """The classic convolutional networks in Keras: train, search and export them."""


@main.command("list")
@click.argument("pattern", default="*")
@click.option("--family", help="Only of this family, as ResNet.")
@click.option("--max-params", type=Amount(), help="At most so many parameters, as 10M.")
@click.option("--max-macs", type=Amount(), help="At most so many multiply-adds, as 1G.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@as_json
def list_(
    pattern: str,
    family: str | None,
    max_params: int | None,
    max_macs: int | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """List the networks whose names match PATTERN, as vgg*."""
    from keras_cnns import zoo

    names = zoo.list_models(pattern, family=family, max_params=max_params, max_macs=max_macs)
    nets = [zoo.get(name) for name in names]
    fields = ("name", "year", "family", "params", "macs", "input_shape", "min_size", "source")
    rows = [tuple(getattr(net, field) for field in fields) for net in nets]
    if as_json:
        return print_json([dict(zip(fields, row, strict=True)) for row in rows])
    if not nets:
        limits = " within these limits" if family or max_params or max_macs else ""
        raise UsageError(f'no network matches "{pattern}"{limits}; keras-cnns list names them all')
    header = ("name", "year", "family", "params", "MACs", "input", "smallest", "source")
    rows = [(name, str(year), *rest) for name, year, *rest in rows]
    table(header, rows, markdown=markdown)


@main.command()
@click.argument("network", metavar="NET|RECIPE.toml|RUN|FILE.keras")
@click.option("--layers", is_flag=True, help="Print the table of layers.")
@click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(1), help="For training."
)
@click.option("--html", type=click.Path(path_type=Path), help="Draw the network on a page.")
@as_json
def show(network: str, layers: bool, batch_size: int, html: Path | None, as_json: bool) -> None:
    """Show what a network costs, its spec, its layers."""
    from keras_cnns import cost, runs
    from keras_cnns.show import find, summary

    if html and html.is_dir():
        raise UsageError(f"{html} is a folder; --html is a file")
    with working():
        found, spec = find(network)
    if html:
        from keras_cnns import picture

        runs.prepare_folder(html.resolve().parent)
        picture.write(html, found, batch_size=batch_size)
    if as_json:
        return print_json(
            cost.to_json(found, batch_size=batch_size) | ({"spec": spec} if spec else {})
        )
    for line in summary(found, batch_size=batch_size):
        click.echo(line)
    for row, value in (spec or {}).items():
        click.echo(f"  {row} = {json.dumps(value)}")
    if layers:
        header = ("layer", "type", "output", "params", "MACs", "bytes", "sees", "stride")
        table(header, [_layer(row) for row in found.layers])
    if html:
        click.echo(f"{html} shows it")


def _layer(row: "Row") -> tuple[Any, ...]:
    return (
        row.name, row.kind, row.shape, row.params, row.macs, row.activation_bytes,
        row.receptive_field, row.stride,
    )  # fmt: skip


def _recipe(network: str, data: str, data_dir: str | None, settings: tuple[str, ...]) -> "Recipe":
    from dataclasses import replace

    from keras_cnns import recipe as recipes, zoo

    recipe = recipes.load(network)
    recipe = replace(recipe, data=replace(recipe.data, name=data, dir=data_dir or recipe.data.dir))
    recipe = recipes.override(recipe, settings)
    zoo.get(recipe.model.name)
    return recipe


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
@click.argument("model", metavar="RUN|NET|FILE.keras")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The artifact folder.")
@click.option("--formats", default="savedmodel,tflite,onnx", show_default=True)
@click.option("--quantize", default="", help="Beside float32: float16,dynamic,int8.")
@click.option(
    "--layout", type=click.Choice(["NHWC", "NCHW"]), default="NHWC", help="Of ONNX's input [NHWC]."
)
@click.option("--data", help=f"To compare and calibrate on: {DATA_HELP} [a run's own]")
@data_dir
@as_json
def export(
    model: str,
    out: Path,
    formats: str,
    quantize: str,
    layout: str,
    data: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Write model files, each run in its own runtime and compared before it counts."""
    with working():
        from keras_cnns.export import subject

        made = subject.export_subject(
            model, out, formats=_words(formats), quantize=_words(quantize), data_name=data,
            data_dir=data_dir, layout=layout, progress=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    if as_json:
        return print_json(made)
    _artifacts(made["artifacts"])


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _artifacts(artifacts: list[dict[str, Any]]) -> None:
    header = ("file", "MB", "max error", "agreement", "accuracy", "ms", "passed", "why")
    keys = ("max_error", "agreement", "accuracy", "latency_ms", "passed", "why")
    table(header, [(a["file"], a["bytes"] / 1e6, *(a[k] for k in keys)) for a in artifacts])


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", help=f"Test images instead of the reference ones: {DATA_HELP}")
@data_dir
@as_json
def verify(folder: Path, data: str | None, data_dir: str | None, as_json: bool) -> None:
    """Run every file of a folder against the model it came from; exit 1 on disagreement."""
    with working():
        from keras_cnns.export.verify import verify

        images, labels = _test_images(folder, data, data_dir) if data else (None, None)
        found = verify(folder, images, labels)
    if as_json:
        print_json(found)
    else:
        _artifacts(found["artifacts"])
    sys.exit(0 if found["passed"] else 1)


def _test_images(folder: Path, name: str, data_dir: str | None) -> "tuple[np.ndarray, np.ndarray]":
    """Return the test images of a data set whose classes are those of the artifacts."""
    from keras_cnns.export import manifest, subject

    return subject.test_images(name, data_dir, manifest.read(folder))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@as_json
def benchmark(folder: Path, as_json: bool) -> None:
    """Measure how fast every file of an artifact folder is, with one thread and with two."""
    with working():
        from keras_cnns.export import benchmark

        rows = benchmark.benchmark(folder)
    if as_json:
        return print_json(rows)
    header = ("file", "MB", "error", "agreement", "accuracy", "ms, 1 thread", "ms, 2 threads")
    keys = ("relative_error", "agreement", "accuracy", "latency_ms_1", "latency_ms_2")
    table(header, [(r["file"], r["bytes"] / 1e6, *(r[key] for key in keys)) for r in rows])


@main.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(path_type=Path))
def demo(out: Path) -> None:
    """Train, search, export and verify on the digits of scikit-learn, in minutes."""
    with working():
        from keras_cnns.demo import demo

        passed = demo(out, echo=lambda line: click.echo(line, err=True))
    click.echo(f"{out / 'report.html'} shows it all")
    sys.exit(0 if passed else 1)
