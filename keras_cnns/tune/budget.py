"""What a trial may cost: priced by arithmetic, before a model is built."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from keras_cnns.cost import cost
from keras_cnns.errors import UsageError
from keras_cnns.tune.spaces import Space, Values

PATHS = 50  # ways from the cheapest network to the dearest, searched for one between two limits


class Budget(NamedTuple):
    """The limits of a search; None is none. Megabytes are of the feature maps needed at once."""

    max_macs: int | None = None
    min_macs: int | None = None
    max_params: int | None = None
    max_activation_mb: float | None = None


class Price(NamedTuple):
    """What a network costs; `activation_mb` is 0 where no budget asks for it."""

    params: int
    macs: int
    activation_mb: float = 0.0


def pricing(
    name: str, input_shape: tuple[int, int, int], num_classes: int, *, activation: bool = False
) -> Callable[[Any], Price | None]:
    """Return what prices a spec of a network; None is the price of no network at this size.

    Args:
        name: of the network.
        input_shape: of its images.
        num_classes: of its last layer.
        activation: whether the memory of the feature maps matters.

    >>> pricing("lenet5", (32, 32, 1), 10)(None)
    Price(params=61706, macs=416520, activation_mb=0.0)
    """

    def price(spec: Any) -> Price | None:
        try:
            found = cost(name, input_shape=input_shape, num_classes=num_classes, spec=spec)
        except UsageError:
            return None
        peak = found.peak_activation_bytes / 1e6 if activation else 0.0
        return Price(found.params, found.macs, peak)

    return price


def excess(budget: Budget, price: Price) -> float:
    """Return by how large a part a price is above its limits, or below the lower one; 0 if it fits.

    >>> excess(Budget(max_macs=100, max_params=10), Price(12, 150))
    0.5
    """
    limits = (
        (price.macs, budget.max_macs),
        (price.params, budget.max_params),
        (price.activation_mb, budget.max_activation_mb),
    )
    over = [value / limit - 1 for value, limit in limits if limit is not None]
    under = [budget.min_macs / max(price.macs, 1) - 1] if budget.min_macs is not None else []
    return max([0.0, *over, *under])


class Market:
    """A space with its prices and its budget; what was asked once is remembered.

    Args:
        space: of points.
        price: of a spec; None for one that is no network at this image size.
        budget: the limits.
    """

    def __init__(self, space: Space, price: Callable[[Any], Price | None], budget: Budget) -> None:
        self.space, self.budget = space, budget
        self._price, self._known = price, dict[str, Price | None]()

    def key(self, values: Values) -> str:
        """Return what two points have in common that stand for the same network."""
        return repr(self.space.spec_of(values))

    def price(self, values: Values) -> Price | None:
        """Return what a point costs."""
        spec = self.space.spec_of(values)
        key = repr(spec)
        if key not in self._known:
            if len(self._known) >= 10_000:
                self._known.clear()
            self._known[key] = self._price(spec)
        return self._known[key]

    def excess(self, values: Values) -> float:
        """Return how far a point is from the budget; infinite for what is no network."""
        price = self.price(values)
        return float("inf") if price is None else excess(self.budget, price)

    def fits(self, values: Values) -> bool:
        """Return whether a point is within the budget."""
        return self.excess(values) == 0

    def anchor(self) -> dict[str, float]:
        """Return a point within the budget: the network as it stands, or else one found.

        Raises:
            UsageError: where there is none; names the cheapest, or the dearest, point.
        """
        default = self.space.default
        if self.fits(default):
            return default
        ceiling = self.budget._replace(min_macs=None)
        cheapest = self._extreme(lambda price: (excess(ceiling, price), price.macs))
        if self.fits(cheapest):
            return cheapest
        price = self._known_price(cheapest)
        if excess(ceiling, price) > 0:
            raise UsageError(
                f"no network fits {self._limits()}: the cheapest of the space has "
                f"{self._words(price)} ({_shown(cheapest)})"
            )
        dearest = self._extreme(lambda price: (-price.macs,))
        price = self._known_price(dearest)
        if self.budget.min_macs is not None and price.macs < self.budget.min_macs:
            raise UsageError(
                f"no network fits {self._limits()}: the dearest of the space has "
                f"{self._words(price)} ({_shown(dearest)})"
            )
        for seed in range(PATHS):
            found = self.between(cheapest, dearest, Random(seed), self._below)
            if self.fits(found):
                return found
        raise UsageError(
            f"no network was found within {self._limits()}: the cheapest of the space has "
            f"{self._words(self._known_price(cheapest))}; leave more room between the limits"
        )

    def between(
        self,
        start: Values,
        end: Values,
        draw: Random,
        wrong: Callable[[Values], bool] | None = None,
    ) -> dict[str, float]:
        """Return a point on a random way from one that is wrong to one that is not, by bisection.

        The way changes one dimension after another; what is wrong, unless told, is not to fit.
        """
        wrong = wrong or (lambda values: not self.fits(values))
        names = [name for name in self.space.choices if start[name] != end[name]]
        draw.shuffle(names)

        def after(steps: int) -> dict[str, float]:
            return {**start, **{name: end[name] for name in names[:steps]}}

        low, high = 0, len(names)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if wrong(after(middle)) else (low, middle)
        return after(high)

    def _below(self, values: Values) -> bool:
        price = self.price(values)
        return price is not None and price.macs < (self.budget.min_macs or 0)

    def _extreme(self, order: Callable[[Price], tuple[float, ...]]) -> dict[str, float]:
        """Return the least point by an order, found one dimension after another."""

        def rank(values: Values) -> tuple[float, ...]:
            price = self.price(values)
            return (float("inf"),) if price is None else order(price)

        ends = {name: (choices[0], choices[-1]) for name, choices in self.space.choices.items()}
        starts = [{name: pair[i] for name, pair in ends.items()} for i in (0, 1)]
        best = min([self.space.default, *starts], key=rank)
        least = rank(best)
        while True:
            before = least
            for name, pair in ends.items():
                for value in pair:
                    if (found := rank({**best, name: value})) < least:
                        best, least = {**best, name: value}, found
            if least == before:
                return best

    def _known_price(self, values: Values) -> Price:
        price = self.price(values)
        if price is None:
            raise UsageError("no network of the space takes images of this size")
        return price

    def _limits(self) -> str:
        return " and ".join(
            f"--{name.replace('_', '-')} {value:,}"
            for name, value in self.budget._asdict().items()
            if value is not None
        )

    def _words(self, price: Price) -> str:
        def parts() -> Iterator[str]:
            yield f"{price.macs:,} MACs"
            if self.budget.max_params is not None:
                yield f"{price.params:,} parameters"
            if self.budget.max_activation_mb is not None:
                yield f"{price.activation_mb:.3g} MB of feature maps at once"

        return " and ".join(parts())


def _shown(values: Values, most: int = 6) -> str:
    parts = [f"{name} x{value:g}" for name, value in values.items() if value != 1]
    return ", ".join(parts[:most] + ["..."] * (len(parts) > most)) or "as it stands"
