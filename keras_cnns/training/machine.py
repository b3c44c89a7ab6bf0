"""What is decided by the machine that trains: the precision, and whether runs are bit-equal."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from keras_cnns.errors import UsageError
from keras_cnns.recipe import Train

# What Linux calls the instructions that multiply bfloat16 numbers.
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
CPUINFO = Path("/proc/cpuinfo")
JAX_FLAG = "--xla_gpu_deterministic_ops=true"


def settle(train: Train, begun: Train | None = None, *, elsewhere: bool = False) -> Train:
    """Return the section with what it leaves to the machine decided, as in a run that has begun.

    Raises:
        UsageError: for float16 without a GPU, unless the training is done elsewhere.
    """
    chosen, deterministic = train.precision, train.deterministic
    if begun and chosen == "auto":
        chosen = begun.precision
    if begun and deterministic is None:
        deterministic = begun.deterministic
    if deterministic is None:
        deterministic = not gpus()
    if not elsewhere or chosen == "auto":
        chosen = precision(chosen)
    return replace(train, precision=chosen, deterministic=deterministic)


def precision(wanted: str) -> str:
    """Return what "auto" stands for here, and any other precision as it is.

    Raises:
        UsageError: for float16 without a GPU, where it is emulated.
    """
    if wanted == "auto":
        return "mixed_bfloat16" if _pays() else "float32"
    if wanted == "mixed_float16" and not gpus():
        raise UsageError(
            "train.precision: mixed_float16 needs a GPU; a processor trains in it about 70 times "
            "as slowly as in float32; use auto"
        )
    return wanted


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Make equal runs bit-equal within, where that is wanted."""
    if not wanted:
        yield
        return
    import keras
    import tensorflow as tf
    from tensorflow.python.framework import config

    flags = os.environ.get("XLA_FLAGS", "").split()
    if keras.backend.backend() == "jax" and gpus() and JAX_FLAG not in flags:
        raise UsageError(
            f"train.deterministic: on GPUs JAX needs XLA_FLAGS={JAX_FLAG}; set it, or give "
            "--no-deterministic"
        )
    before = config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            config.disable_op_determinism()


def gpus() -> list[Any]:
    """Return the GPUs that the backend of Keras sees."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return [device for device in jax.devices() if device.platform == "gpu"]
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def _pays() -> bool:
    """Return whether the backend would use instructions for bfloat16 here."""
    import keras

    if keras.backend.backend() == "jax":
        # XLA's code for a processor gained nothing by it, where TensorFlow's did (AVX512_BF16).
        found = [getattr(gpu, "compute_capability", "").partition(".")[0] for gpu in gpus()]
        return bool(found) and all(major.isdecimal() and int(major) >= 8 for major in found)
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    if found := gpus():
        return all(details(gpu).get("compute_capability", (0, 0)) >= (8, 0) for gpu in found)
    return CPUINFO.is_file() and bool(BFLOAT16_FLAGS & set(CPUINFO.read_text().split()))
