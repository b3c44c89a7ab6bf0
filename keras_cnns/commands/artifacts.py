"""export, verify and benchmark: the files that a model is deployed as."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_cnns.preprocessing import PREPROCESSING
from keras_cnns.terminal import DATA_HELP, as_json, data_dir, print_json, table, working

if TYPE_CHECKING:
    import numpy as np


@click.command()
@click.argument("model", metavar="RUN|NET|RECIPE.toml|FILE.keras")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The artifact folder.")
@click.option("--formats", default="savedmodel,tflite,onnx", show_default=True)
@click.option(
    "--quantize",
    default="",
    help="Beside float32: float16, dynamic (better with --data), int8 (needs data).",
)
@click.option(
    "--layout", type=click.Choice(["NHWC", "NCHW"]), default="NHWC", help="Of ONNX's input [NHWC]."
)
@click.option(
    "--output",
    type=click.Choice(["probabilities", "logits"]),
    default="probabilities",
    help="Of TFLite; the others give both [probabilities].",
)
@click.option(
    "--preprocessing",
    type=click.Choice(["none", *PREPROCESSING]),
    help="What a .keras file that does not scale its pixels wants done to 0..255 [unknown].",
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
    output: str,
    preprocessing: str | None,
    data: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Write model files, each run in its own runtime and compared before it counts."""
    with working():
        from keras_cnns.export import subject

        made = subject.export_subject(
            model, out, formats=_words(formats), quantize=_words(quantize), data_name=data,
            data_dir=data_dir, layout=layout, output=output, preprocessing=preprocessing,
            progress=lambda line: click.echo(line, err=True),
        )  # fmt: skip
    if as_json:
        return print_json(made)
    _artifacts(made["artifacts"], made["labels"])


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _artifacts(artifacts: list[dict[str, Any]], labels: list[str]) -> None:
    """Print a row for each file, and the images on which one disagrees with its model."""
    header = ("file", "MB", "max error", "agreement", "accuracy", "ms", "passed", "why")
    keys = ("max_error", "agreement", "accuracy", "latency_ms", "passed", "why")
    table(header, [(a["file"], a["bytes"] / 1e6, *(a[k] for k in keys)) for a in artifacts])
    for artifact in artifacts:
        listed = artifact.get("disagreements", [])
        for entry in listed:
            tie = ", a tie" if entry["tie"] else ""
            click.echo(
                f"{artifact['file']}: image {entry['image']} is {labels[entry['received']]} where "
                f"the model says {labels[entry['expected']]} by {entry['margin']:.3g}{tie}; "
                f"largest error {entry['error']:.3g}"
            )
        if len(listed) < artifact.get("disagreeing", 0):
            click.echo(f"{artifact['file']}: {artifact['disagreeing'] - len(listed)} more")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", help=f"Test images instead of the reference ones: {DATA_HELP}")
@data_dir
@as_json
def verify(folder: Path, data: str | None, data_dir: str | None, as_json: bool) -> None:
    """Run every file of a folder against the model it came from; exit 1 on disagreement."""
    with working():
        from keras_cnns.export import manifest
        from keras_cnns.export.verify import verify

        images, labels = _test_images(folder, data, data_dir) if data else (None, None)
        found = verify(folder, images, labels)
    if as_json:
        print_json(found)
    else:
        _artifacts(found["artifacts"], manifest.read(folder)["labels"])
    sys.exit(0 if found["passed"] else 1)


def _test_images(folder: Path, name: str, data_dir: str | None) -> "tuple[np.ndarray, np.ndarray]":
    """Return the test images of a data set whose classes are those of the artifacts."""
    from keras_cnns.export import manifest, subject

    return subject.test_images(name, data_dir, manifest.read(folder))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@as_json
def benchmark(folder: Path, as_json: bool) -> None:
    """Measure how fast every file of an artifact folder is, with one thread and with two."""
    with working():
        from keras_cnns.export import benchmark

        rows = benchmark.benchmark(folder)
    if as_json:
        return print_json(rows)
    header = ("file", "format", "numbers", "MB", "error", "agreement", "accuracy")
    keys = ("relative_error", "agreement", "accuracy", "latency_ms_1", "latency_ms_2")
    table(
        (*header, "ms, 1 thread", "ms, 2 threads"),
        [
            (r["file"], r["format"], r["quantization"], r["bytes"] / 1e6, *(r[key] for key in keys))
            for r in rows
        ],
    )
