"""Start Keras, and hold back the chatter of TensorFlow and its converters."""

import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back what is written to standard error, unless it tells of an error.

    TensorFlow and its converters write from Python and from C++, so that the file descriptor
    itself is turned aside. Lines that TensorFlow marks as errors are shown afterwards; all of it
    is when an exception passes.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        failed = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            for line in aside:
                if failed or re.match(rb"[EF]\d{4} (?!.*cuInit)", line):
                    os.write(2, line)


# Keras walks a graph from its end by a function that calls itself for each layer on the way, and
# ResNet-1202 has 4,200 in a row.
DEEPEST = 20_000


def start_keras() -> None:
    """Import Keras and its backend, ready for deep graphs and without TensorFlow's greetings.

    The first of its operations looks for a GPU, and says as an error that there is none.
    """
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEEPEST))
    if "keras" not in sys.modules:
        with quiet():
            import keras

            if keras.backend.backend() == "tensorflow":
                import tensorflow as tf

                tf.config.list_physical_devices()
