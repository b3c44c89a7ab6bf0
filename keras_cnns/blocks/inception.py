"""Parallel branches, joined: Inception."""

from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any

from keras_cnns.blocks.conv import BATCH_NORM, conv_norm, pool
from keras_cnns.spec import Branches, Pool
from keras_cnns.trace import layers


def inception_block(
    x: Any,
    branches: Branches,
    *,
    norm: bool = False,
    use_bias: bool | None = None,
    epsilon: float = BATCH_NORM["epsilon"],
    name: str,
) -> Any:
    """Parallel branches, their channels joined: concat(branch_1(x), ..., branch_n(x)).

    Szegedy et al. 2014, figure 2: (a) naive, (b) with reductions; which of them is a matter of the
    branches. Layers are named by branch and step: `3a_2b_conv` is the second step of the second.

    >>> from keras_cnns.spec import Conv
    >>> from keras_cnns.trace import FeatureMap
    >>> naive = Branches((Conv(64),), (Conv(128, 3),), (Conv(32, 5),), (Pool("max"),))
    >>> inception_block(FeatureMap((None, 28, 28, 192)), naive, name="3a").shape
    (None, 28, 28, 416)
    """
    options: dict[str, Any] = {"norm": norm, "use_bias": use_bias, "epsilon": epsilon}
    ends = [chain(x, steps, **options, name=f"{name}_{i}") for i, steps in enumerate(branches, 1)]
    return layers.Concatenate(name=f"{name}_concat")(ends)


def chain(x: Any, steps: Sequence[Any], *, name: str, **options: Any) -> Any:
    """Convolutions, poolings and parallel branches, one after another: step_n(... step_1(x)).

    A letter is added to `name` for each step; `options` are those of `inception_block`.

    >>> from keras_cnns.spec import Conv
    >>> from keras_cnns.trace import FeatureMap
    >>> steps = (Conv(64, 7, 2), Pool("max", 3, 2))
    >>> chain(FeatureMap((None, 32, 32, 3)), steps, name="stem_").shape
    (None, 8, 8, 64)
    """
    for letter, step in zip(ascii_lowercase[: len(steps)], steps, strict=True):
        place = f"{name}{letter}"
        if isinstance(step, Branches):
            x = inception_block(x, step, **options, name=place)
        elif isinstance(step, Pool):
            x = pool(x, step, name=f"{place}_pool")
        else:
            x = conv_norm(x, *step, **options, name=place)
    return x
