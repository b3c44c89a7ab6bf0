"""What an oracle's next step is: a point to train, or to wait for trials that are at work."""

from typing import Any, NamedTuple


class Step(NamedTuple):
    """A point to train next, and how long.

    `rejected` candidates were turned down on the way to it. `epochs` is None for all of the
    recipe's; `after` is the id of the trial that is gone on with, from `initial_epoch`;
    `state` is what the oracle is to be told the next time.
    """

    values: dict[str, float]
    rejected: int
    epochs: int | None = None
    initial_epoch: int = 0
    after: str | None = None
    state: dict[str, Any] | None = None


class Wait(NamedTuple):
    """Nothing can be tried before one of the trials at work has ended."""
