"""Weights from elsewhere: keras.applications' networks, our own files, torch's state dicts."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from keras_cnns.errors import UsageError
from keras_cnns.trace import Row
from keras_cnns.weights import applications, files, state_dicts
from keras_cnns.weights.carried import Carried, agree, assign
from keras_cnns.zoo import Net

__all__ = ["Carried", "assign", "carry"]

SUFFIXES = (*files.SUFFIXES, *state_dicts.SUFFIXES)


def carry(
    weights: str | Path,
    net: Net,
    rows: Iterable[Row],
    *,
    spec: Any = None,
    include_top: bool = True,
    preprocessing: str | None = None,
) -> Carried:
    """Return the weights that `build` is asked for, by our layers' names.

    What can be refused is refused before Keras is imported and before anything is downloaded.

    Args:
        weights: "imagenet", or the path of a file.
        net: the network.
        rows: its layers, as `build` is to make them.
        spec: its spec, as `build` takes it.
        include_top: with the layers above the last feature map.
        preprocessing: what the caller wants done to pixels; None leaves it to the weights.

    Raises:
        UsageError: there are none, or they are for another model.
    """
    if not isinstance(weights, str | PathLike):
        raise UsageError(f'{net.name}: received weights {weights!r}; give "imagenet" or a path')
    path = Path(weights)
    if weights == "imagenet":
        sibling, source = applications.sibling_of(net), applications.source_of(net)
        agree(source, sibling.preprocessing, preprocessing)
        applications.check(net, rows)
        return applications.read(net, include_top)
    if not path.name.endswith(SUFFIXES):
        raise UsageError(
            f'{net.name}: received weights "{weights}"; allowed are "imagenet", '
            f"and files that end in {', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file of weights")
    if path.name.endswith(files.SUFFIXES):
        found = files.read(net.name, path)
    else:
        found = state_dicts.read(net.name, path, spec)
    agree(found.source, found.preprocessing, preprocessing)
    return found
