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


def listed(
    source: Source, split: str, batch_size: int, seed: int, first_step: int
) -> tf.data.Dataset:
    """Return a training's records by their rows."""
    assert source.columns
    columns = source.columns(split)

    def record(row: Record) -> Record:
        found = tf.nest.map_structure(lambda column: tf.gather(column, row["row"]), columns)
        return {**found, "key": row["key"]}

    return rows(source.sizes[split], batch_size, seed, first_step).map(record)


def streamed(
    source: Source, split: str, batch_size: int, seed: int, first_step: int
) -> tf.data.Dataset:
    """Return a training's records as they lie, shuffled within a window."""
    size = source.sizes[split]
    records = source.records(split).enumerate()
    buffer = min(size, max(1024, SHUFFLE_BYTES // max(1, source.record_bytes)))

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        number = tf.random.stateless_uniform((), _seed(seed, epoch), None, None, tf.int64)
        shuffled = records.shuffle(buffer, seed=number, reshuffle_each_iteration=False)
        return shuffled.map(lambda row, record: {**record, "row": row})

    return _epochs(order, size, batch_size, seed, first_step)


def rows(size: int, batch_size: int, seed: int, first_step: int) -> tf.data.Dataset:
    """Return the rows of a split in the order of a training, each with the key of its image."""

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        drawn = tf.random.experimental.stateless_shuffle(tf.range(size), _seed(seed, epoch))
        return tf.data.Dataset.from_tensor_slices({"row": drawn})

    return _epochs(order, size, batch_size, seed, first_step)


def _epochs(
    order: Callable[[tf.Tensor], tf.data.Dataset],
    size: int,
    batch_size: int,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """Return epoch after epoch of records, whole batches of each, with the keys of their rows."""
    steps = size // batch_size
    first_epoch, done = divmod(first_step, steps)

    def following(epoch: tf.Tensor) -> tf.data.Dataset:
        begin = tf.where(epoch == first_epoch, done * batch_size, 0)
        records = order(epoch).take(steps * batch_size).skip(tf.cast(begin, tf.int64))
        key = fold(seed, epoch)
        return records.map(lambda record: {**record, "key": fold(key, record["row"])})

    return tf.data.Dataset.range(first_epoch, FOREVER).flat_map(following)


def _seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Return the two numbers that TensorFlow's stateless operations take, for an epoch's order."""
    key = fold(fold(seed, epoch), ORDER)
    return tf.bitcast(tf.stack([key, fold(key, 0)]), tf.int64)
