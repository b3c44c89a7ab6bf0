"""What is exported: a run, a network by name or recipe, a .keras file; images to compare on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_cnns import builder, data, graph, recipe as recipes, runs, spec as specs, zoo
from keras_cnns.errors import UsageError
from keras_cnns.export import (
    Reference,
    check_folder,
    export,
    manifest,
    plan,
    prepare,
    reference_count,
    synthetic_images,
)
from keras_cnns.export.parity import JUDGED_IMAGES

if TYPE_CHECKING:
    import keras

CALIBRATION_IMAGES = 200
VARIED_IMAGES = 64


class Subject(NamedTuple):
    """A model, and the data that it was trained on, if any."""

    name: str
    load: Callable[[], "keras.Model"]
    labels: tuple[str, ...] | None = None
    run: runs.Run | None = None


def find_subject(place: str) -> Subject:
    """Find a run folder, a .keras file, a recipe or a network's name; nothing is loaded yet.

    Raises:
        UsageError: for anything else.
    """
    path = Path(place)
    if place not in zoo.NETS and path.is_dir():
        run = runs.open_run(path)
        return Subject(run.recipe.model.name, run.model, run.labels, run)
    if path.suffix == ".keras":
        if not path.is_file():
            raise UsageError(f"{path} does not exist; give a .keras file")
        return Subject(path.stem, lambda: graph.load_model(path))
    if path.suffix == ".toml":
        return _of_recipe(recipes.load(path))
    net = zoo.get(place)
    return Subject(net.name, lambda: fresh(net.name))


def _of_recipe(recipe: recipes.Recipe) -> Subject:
    """Return the network of a recipe, untrained; what it leaves to the data is the network's."""
    net, model, data = zoo.get(recipe.model.name), recipe.model, recipe.data
    spec = zoo.spec_of(net.name, model.spec)
    if model.width != 1:
        spec = specs.scale_filters(spec, model.width)
    height, width, channels = net.input_shape
    arguments = {
        "input_shape": (data.size or height, data.size or width, data.channels or channels),
        "spec": spec,
        "preprocessing": model.preprocessing,
    }
    return Subject(net.name, lambda: fresh(net.name, **arguments))


def fresh(name: str, seed: int = 0, **arguments: Any) -> "keras.Model":
    """Build a network with weights drawn by a seed, batch normalisation's statistics included.

    With the statistics that Keras starts from, normalisation would do nothing, and a deep
    network's answers would overflow or hardly depend on its image.
    """
    import keras

    keras.utils.set_random_seed(seed)
    model = builder.build(name, **{"preprocessing": "symmetric", **arguments})
    images = synthetic_images(16, model.inputs[0].shape[1:], seed=seed)
    prepare.randomise_norms(model, images, seed)
    return model


def export_subject(
    place: str,
    out: Path,
    *,
    formats: Sequence[str],
    quantize: Sequence[str] = (),
    data_name: str | None = None,
    data_dir: str | None = None,
    layout: str = "NHWC",
    output: str = "probabilities",
    preprocessing: str | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Export a run, a network or a file, compared on test images where there are any.

    Without data the images are synthetic and have no labels. A run and a network know what their
    pixels are; a file may be helped by `preprocessing`, as of `keras_cnns.export.export`.

    Returns:
        The manifest, as of `keras_cnns.export.export`.

    Raises:
        UsageError: before any work, for what cannot be done.
        ExportError: where a file fails its checks; nothing is left.
    """
    subject = find_subject(place)
    calibrated = data_name is not None or subject.run is not None
    plan(formats, quantize, calibrated=calibrated, output=output)
    if preprocessing is not None and Path(place).suffix != ".keras":
        raise UsageError(f"{place} has its own preprocessing; --preprocessing is for .keras files")
    check_folder(out)
    source = None
    if subject.run is not None:
        source = runs.open_data(runs.with_data(subject.run.recipe, data_name), data_dir=data_dir)
    elif data_name is not None:
        source = data.open_source(data_name, data_dir=data_dir)
    if source and subject.labels and tuple(source.labels) != subject.labels:
        raise UsageError(
            f"{source.name} has {len(source.labels)} classes, others than the "
            f"{len(subject.labels)} of {place}; give the data of its own classes"
        )
    model = subject.load()
    height, width, channels = model.inputs[0].shape[1:]
    shape = (height, width, channels)
    classes = prepare.prepare(model).output["logits"].shape[-1]
    preprocessing = _preprocessing(place, model, preprocessing, progress)
    calibration = None
    if source:
        least = JUDGED_IMAGES if "int8" in quantize else VARIED_IMAGES
        images, truth = _images(source, "test", shape, reference_count(shape, least=least))
        # A small test split tells the accuracy, and too little of the errors.
        more = synthetic_images(max(0, VARIED_IMAGES - len(images)), shape, seed=0)
        reference = Reference(
            np.concatenate([images, more]), np.concatenate([truth, np.full(len(more), -1)])
        )
        if {"dynamic", "int8"} & set(quantize):
            calibration, _ = _images(source, "train", shape, CALIBRATION_IMAGES)
    else:
        reference = Reference(synthetic_images(VARIED_IMAGES, shape, seed=0))
    labels = subject.labels or (source.labels if source else [str(i) for i in range(classes)])
    return export(
        model,
        out,
        name=subject.name,
        formats=formats,
        quantize=quantize,
        labels=labels,
        reference=reference,
        calibration=calibration,
        layout=layout,
        output=output,
        preprocessing=preprocessing,
        cut=_cut(subject.run),
        progress=progress,
    )


def _preprocessing(
    place: str,
    model: "keras.Model",
    wanted: str | None,
    progress: Callable[[str], object],
) -> str | None:
    """Return what has to be done to pixels before the model: "none" if it does it itself."""
    known = prepare.takes_pixels(model)
    if known and wanted not in (None, "none"):
        raise UsageError(f"{place} scales its pixels itself; leave --preprocessing {wanted} out")
    if not known and wanted is None:
        progress(f"{place}: {manifest.UNKNOWN_RANGE}")
    return "none" if known else wanted


def _cut(run: runs.Run | None) -> dict[str, Any]:
    """Return how a run cut its data into splits."""
    if run is None:
        return {}
    recipe = run.recipe
    return {"validation": recipe.data.validation, "test": recipe.data.test, "seed": recipe.seed}


def _images(
    source: data.Source, split: str, shape: tuple[int, int, int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return images of a split, spread evenly over it, and their labels."""
    step = max(1, source.require(split) // count)
    records = source.records(split).shard(step, 0).take(count)
    images, labels = [], []
    for record in records:
        pixels = data.fit_image(source.read(record["image"]), shape)
        images.append(pixels.numpy().astype(np.uint8))
        labels.append(int(record["label"]))
    return np.stack(images), np.array(labels)


def test_images(
    name: str, data_dir: str | None, described: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return all test images of a data set, cut as the exported run cut its own.

    Args:
        name: of the data set.
        data_dir: where TFDS keeps its sets.
        described: the manifest of the artifact folder.

    Raises:
        UsageError: for another set of classes.
    """
    source = data.open_source(name, data_dir=data_dir, **described.get("cut", {}))
    if list(source.labels) != described["labels"]:
        raise UsageError(
            f"{name} has {len(source.labels)} classes, others than the "
            f"{len(described['labels'])} of the files; give the data of their own classes"
        )
    height, width, channels = described["input"]["shape"]
    return _images(source, "test", (height, width, channels), source.sizes["test"])
