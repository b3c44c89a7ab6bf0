"""The order in which a training sees its images, and the key of each, from any step on."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from keras_cnns.data.draws import fold
from keras_cnns.data.source import Source

SHUFFLE_BYTES = 2**28
"""How much of a TFDS set that is not kept in memory is shuffled at a time."""
FOREVER = 2**62
# Rows are numbered from 0: an epoch's order has a key that is no image's.
ORDER = 2**62

Record = dict[str, tf.Tensor]


def rows(size: int, batch_size: int, seed: int, first_step: int) -> tf.data.Dataset:
    """Return a training's batches as the rows of a split, each with the key of its image."""
    steps = size // batch_size

    def order(epoch: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        drawn = tf.random.experimental.stateless_shuffle(tf.range(size), _seed(seed, epoch))
        batched = tf.reshape(drawn[: steps * batch_size], (steps, batch_size))
        return tf.data.Dataset.from_tensor_slices({"row": batched[done:]})

    return _epochs(order, steps, seed, first_step)


def listed(
    source: Source, split: str, batch_size: int, seed: int, first_step: int
) -> tf.data.Dataset:
    """Return a training's batches of records, by their rows."""
    assert source.columns
    columns = source.columns(split)

    def records(batch: Record) -> Record:
        found = tf.nest.map_structure(lambda column: tf.gather(column, batch["row"]), columns)
        return {**found, "key": batch["key"]}

    return rows(source.sizes[split], batch_size, seed, first_step).map(records)


def streamed(
    source: Source, split: str, batch_size: int, seed: int, first_step: int
) -> tf.data.Dataset:
    """Return a training's batches of records as they lie, shuffled within a window."""
    size = source.sizes[split]
    steps = size // batch_size
    records = source.records(split).enumerate()
    buffer = min(size, max(1024, SHUFFLE_BYTES // max(1, source.record_bytes)))

    def order(epoch: tf.Tensor, done: tf.Tensor) -> tf.data.Dataset:
        # Of this graph alone; `shuffle` mixes it in, and cannot where it is 0, as in most recipes.
        tf.random.set_seed(1)
        number = tf.random.stateless_uniform((), _seed(seed, epoch), None, None, tf.int64)
        shuffled = records.shuffle(buffer, seed=number, reshuffle_each_iteration=False)
        left = shuffled.take(steps * batch_size).skip(tf.cast(done, tf.int64) * batch_size)
        return left.map(lambda row, record: {**record, "row": row}).batch(batch_size, True)

    return _epochs(order, steps, seed, first_step)


def _epochs(
    order: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset],
    steps: int,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """Return epoch after epoch of batches, from a step on, with the keys of their rows."""
    first_epoch, done = divmod(first_step, steps)

    def following(epoch: tf.Tensor) -> tf.data.Dataset:
        key = fold(seed, epoch)
        batches = order(epoch, tf.where(epoch == first_epoch, done, 0))
        return batches.map(lambda batch: {**batch, "key": fold(key, batch["row"])})

    return tf.data.Dataset.range(first_epoch, FOREVER).flat_map(following)


def _seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Return the two numbers that TensorFlow's stateless operations take, for an epoch's order."""
    key = fold(fold(seed, epoch), ORDER)
    return tf.bitcast(tf.stack([key, fold(key, 0)]), tf.int64)
