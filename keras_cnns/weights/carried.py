"""Weights from elsewhere, by our layers' names; and how they get into a model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Carried(NamedTuple):
    """Weights that another library has trained, by the names of our layers.

    `values` has the arrays of each layer in the order of Keras's `layer.weights`;
    `preprocessing`, as of `build`, is what they were trained with; `spec` the changes of the
    paper's spec that they need; `source`, as "the file x.safetensors", is for errors.
    """

    values: Mapping[str, list[np.ndarray]]
    preprocessing: str | None
    source: str
    spec: Mapping[str, Any] = MappingProxyType({})
