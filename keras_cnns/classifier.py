"""A trained network as a function from images to probabilities, whichever parts of them it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_cnns import crops, data
from keras_cnns.crops import Views
from keras_cnns.runs import Run

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_cnns.fusion.predictor import Predictor

Shape = tuple[int, int, int]


class Classifier(NamedTuple):
    """A function from pixels (n, height, width, channels) to probabilities, and what they mean.

    The note says that it is not known which pixels the model takes: these are from 0 to 255.
    """

    run: Callable[[np.ndarray], np.ndarray]
    image_shape: Shape
    labels: tuple[str, ...]
    note: str = ""


def network(run: Run, views: Views, **options: Any) -> Predictor:
    """Return a run's network for such views of images; options as of `keras_cnns.predictor`.

    Raises:
        UsageError: where it takes no such views: see `fully_convolutional` and `square_size`.
    """
    if not views.plain:
        crops.square_size(run.image_shape)
    model = run.model()
    from keras_cnns.convolutional import fully_convolutional
    from keras_cnns.fusion.predictor import predictor

    if not views.dense:
        return predictor(model, **options)
    if options.get("images") is None:  # noise of a size that the network surely takes
        options["images"] = np.random.default_rng(0).uniform(0, 255, (4, *run.image_shape))
    return predictor(fully_convolutional(model), **options)


def examples(
    source: data.Source, split: str, views: Views, *, image_shape: Shape, batch_size: int
) -> tf.data.Dataset:
    """Return a split in order as batches of {"parts", "label", "file"}; each image is read once.

    The "parts" of n images are arrays (n * m, height, width, channels), as `parts` gives them, and
    together about as many images for the network as `batch_size`.
    """
    if views.plain:
        fitted = data.examples(source, split, image_shape=image_shape, batch_size=batch_size)
        return fitted.map(lambda record: {**_others(record), "parts": (record["image"],)})
    import tensorflow as tf

    def look(record: dict[str, Any]) -> dict[str, Any]:
        return {**_others(record), "parts": parts(record["image"], views, image_shape)}

    def in_a_row(record: dict[str, Any]) -> dict[str, Any]:
        (stacked,) = record["parts"]
        return {**record, "parts": (tf.reshape(stacked, (-1, *image_shape)),)}

    seen = source.dataset(split).map(look, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if not views.dense:
        return seen.batch(max(1, batch_size // views.looks)).map(in_a_row).prefetch(2)
    largest = max(crops.sides(views, image_shape[0])) ** 2
    each = seen.batch(max(1, batch_size * image_shape[0] ** 2 // largest) if source.size else 1)
    return each.map(lambda r: {**r, "parts": tuple(x[:, 0] for x in r["parts"])}).prefetch(2)


def _others(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "image"}


def parts(image: tf.Tensor, views: Views, image_shape: Shape) -> tuple[tf.Tensor, ...]:
    """Return the parts of an image that a network is given, without mirror images.

    Args:
        image: uint8 (height, width, channels).
        views: which parts, any but plain ones.
        image_shape: of the network.

    Returns:
        Arrays (m, height, width, channels), an array for each size: one, or for the dense test one
        image for each scale.
    """
    if not views.dense:
        return (crops.cut(image, views, image_shape),)
    sides = crops.sides(views, image_shape[0])
    return tuple(crops.whole(image, side, image_shape[-1])[None] for side in sides)


def probabilities(
    run: Callable[[np.ndarray], np.ndarray],
    parts: Iterable[np.ndarray],
    *,
    images: int,
    flip: bool = False,
) -> np.ndarray:
    """Return the probabilities of each image (images, classes): the mean of those of its parts.

    Args:
        run: from pixels to probabilities.
        parts: arrays (images * m, height, width, channels), as those of `parts`.
        images: how many these are parts of.
        flip: whether the mirror image of each part is looked at too.

    >>> pixels = np.array([[[[0, 1], [1, 0]]]])
    >>> probabilities(lambda x: x[:, 0, 0], [pixels], images=1, flip=True).tolist()
    [[0.5, 0.5]]
    """
    found = []
    for pixels in parts:
        for each in (pixels, pixels[:, :, ::-1]) if flip else (pixels,):
            scores = run(each.astype("float32", copy=False))
            found.append(scores.reshape(images, -1, scores.shape[-1]).mean(1))
    return np.mean(found, axis=0)
