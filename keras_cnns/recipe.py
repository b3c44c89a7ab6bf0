"""A recipe: all that decides a training, as frozen dataclasses, read from and written to TOML.

A field that is None is decided by the data or the network when a training starts; the recipe.toml
of a run has it filled in. What is not allowed is a `UsageError` that names the key.
"""

import math
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import tomli_w

from keras_cnns.errors import UsageError, suggest
from keras_cnns.spec import to_dict


class Rule(NamedTuple):
    """What a value must be: in words for the message, and as a test."""

    words: str
    holds: Callable[[Any], bool] = lambda _: True
    choices: tuple[Any, ...] = ()


def _one_of(*choices: Any) -> Rule:
    return Rule(" or ".join(map(str, choices)), choices.__contains__, choices)


Flag = Annotated[bool, Rule("true or false")]
Text = Annotated[
    str, Rule("text in quotes", lambda s: s == s.encode(errors="ignore").decode() != "")
]
Seed = Annotated[int, Rule("a whole number from 0 to 4294967295", lambda n: 0 <= n < 2**32)]
Count = Annotated[int, Rule("a whole number of at least 1", lambda n: n >= 1)]
Magnitude = Annotated[int, Rule("a whole number from 0 to 30", lambda n: 0 <= n <= 30)]
Whole = Annotated[int, Rule("a whole number of at least 0", lambda n: n >= 0)]
Rate = Annotated[float, Rule("a number above 0", lambda x: 0 < x < math.inf)]
Amount = Annotated[float, Rule("a number of at least 0", lambda x: 0 <= x < math.inf)]
Part = Annotated[float, Rule("a number from 0 to below 1", lambda x: 0 <= x < 1)]
Share = Annotated[float, Rule("a number above 0 and below 1", lambda x: 0 < x < 1)]
# What data.augment may be; what each does is in data/augment.py, which is no concern of a recipe.
AUGMENTATIONS = (
    "none",
    "shift",
    "crop",
    "resized_crop",
    "photo",
    "inception",
    "alexnet",
    "vgg",
    "vgg256",
    "vgg384",
)
Precision = Annotated[str, _one_of("auto", "float32", "mixed_bfloat16", "mixed_float16")]
Parts = Annotated[dict, Rule("a table of the network's parts")]
Epochs = Annotated[
    tuple,
    Rule(
        "a list of epochs, each above the one before, as [32, 48]",
        lambda ns: all(type(n) is int for n in ns) and [0, *ns] == sorted({0, *ns}),
    ),
]


class _Section:
    """A table of the recipe; it checks its values on creation and names the key that is wrong."""

    def __post_init__(self) -> None:
        prefix = "" if isinstance(self, Recipe) else f"{type(self).__name__.lower()}."
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            object.__setattr__(self, name, _checked(hint, getattr(self, name), prefix + name))


@dataclass(frozen=True)
class Model(_Section):
    """Which network, and how it differs from its paper."""

    name: Text = "lenet5"
    spec: Parts = field(default_factory=dict)  # laid over the paper's own numbers
    width: Rate = 1.0  # times every filter count of the spec, in multiples of 8
    auxiliary: Flag = False
    # None: that of the weights, else symmetric.
    preprocessing: Annotated[str, _one_of("symmetric", "unit", "imagenet", "caffe")] | None = None
    weights: Text | None = None  # to start from: imagenet, a file or a run; the head is new
    matching: Flag = False  # of another network: whatever layers have the same name and shape

    def __post_init__(self) -> None:
        """Check the keys, each by itself and beside the others."""
        super().__post_init__()
        if self.matching and self.weights in (None, "imagenet"):
            raise UsageError("model.matching needs model.weights=RUN or a .keras file")


@dataclass(frozen=True)
class Data(_Section):
    """Which images, how large and how many at once."""

    name: Text = "digits"  # digits, a TFDS name or a folder with one sub-folder per class
    dir: Text | None = None  # where TFDS keeps its sets; None: TFDS_DATA_DIR, or TFDS's own place
    size: Count | None = None  # pixels a side; None: the images' own, up to the network's
    channels: Annotated[int, _one_of(1, 3, 4)] | None = None  # None: as the images have
    batch_size: Count = 64
    validation: Share = 0.1  # of the training images, where the set has no such split
    test: Share = 0.1  # of a folder's images, where it has no such split
    # None: shift for grey images, which may be writing, crop for small photos, photo for others.
    augment: Annotated[str, _one_of(*AUGMENTATIONS)] | None = None
    randaugment: Magnitude = 0  # of two operations on each image; 9 is usual
    erasing: Part = 0.0  # of the images lose a rectangle
    mixup: Amount = 0.0  # alpha; 0.2 is usual
    cutmix: Amount = 0.0  # alpha; 1.0 is usual

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images, in a recipe whose training has started."""
        if self.size is None or self.channels is None:
            raise UsageError("data.size and data.channels are not decided yet; open a run's recipe")
        return self.size, self.size, self.channels


@dataclass(frozen=True)
class Train(_Section):
    """How long, how fast, how carefully; the learning rate warms up, then falls as a cosine.

    AdamW at its usual rate also trains the networks that have no batch normalisation. SGD wants a
    rate of its own: about 0.1 with batch normalisation, 0.01 without, and a weight decay of 0.005:
    ten times a paper's 0.0005, which its momentum of 0.9 adds up tenfold and ours does not.
    """

    epochs: Count = 30
    optimizer: Annotated[str, _one_of("adamw", "sgd", "rmsprop")] = "adamw"
    learning_rate: Rate = 1e-3
    schedule: Annotated[str, _one_of("cosine", "polynomial", "step", "constant")] = "cosine"
    power: Rate = 1.0  # of the polynomial
    milestones: Epochs = ()  # of the steps: after how many epochs
    decay: Rate = 0.1  # times the rate at each of them
    warmup_epochs: Amount = 1.0
    momentum: Part = 0.9  # of sgd and rmsprop
    nesterov: Flag = True  # momentum in Nesterov's form, of sgd
    rho: Part = 0.9  # of rmsprop's mean of squares
    epsilon: Rate | None = None  # of adamw and rmsprop; None: Keras's own, 1e-7
    weight_decay: Amount = 0.05  # decoupled: a step takes learning_rate x weight_decay of a weight
    label_smoothing: Part = 0.1
    clip_norm: Rate | None = None  # the longest that all gradients together may be
    accumulate: Count = 1  # batches whose gradients make one step
    ema: Part | None = None  # as 0.999: what is tested and kept is this running mean of weights
    patience: Count | None = None  # epochs without a better validation accuracy; the best is kept
    # In which only the head of a network with model.weights learns; None: a quarter of them.
    freeze_epochs: Whole | None = None
    unfreeze_from: Text | None = None  # the stage from which on it learns afterwards; None: all
    backbone_rate: Rate | None = None  # times the learning rate of all but the head; None: 0.3
    # Keras's 0.99 makes a short training look broken; a larger `ema` is that of statistics too.
    batch_norm_momentum: Part = 0.9
    precision: Precision = "auto"  # bfloat16 where processor or GPU have instructions for it
    deterministic: Flag | None = None  # equal runs are bit-equal; None: yes on a CPU
    checkpoint_epochs: Count = 1  # between two checkpoints
    checkpoint_steps: Count | None = None  # the same in batches, also within an epoch
    on_nan: Annotated[str, _one_of("stop", "restore")] = "stop"  # restore: at half the rate

    def __post_init__(self) -> None:
        """Check the keys, each by itself and beside the others."""
        super().__post_init__()
        if bool(self.milestones) != (self.schedule == "step"):
            raise UsageError(
                f"train.milestones: received {list(self.milestones)} with the schedule "
                f'"{self.schedule}"; "step" needs some, and the others take none'
            )
        if self.optimizer == "sgd" and self.epsilon is not None:
            raise UsageError("train.epsilon: sgd has none; leave it out")

    @property
    def head_epochs(self) -> int:
        """In how many epochs the head learns alone."""
        return self.freeze_epochs or 0


@dataclass(frozen=True)
class Recipe(_Section):
    """Everything that decides a training.

    >>> Recipe(seed=1, model=Model(name="nin")).train.optimizer
    'adamw'
    """

    seed: Seed = 0
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)

    def __post_init__(self) -> None:
        """Check the sections, each by itself and beside the others."""
        super().__post_init__()
        new = self.model.weights is None or self.model.matching
        for key, neutral in (("freeze_epochs", 0), ("unfreeze_from", None), ("backbone_rate", 1)):
            if new and getattr(self.train, key) not in (None, neutral):
                raise UsageError(f"train.{key} needs model.weights for every layer but the head")
        if self.train.head_epochs >= self.train.epochs and self.train.unfreeze_from:
            raise UsageError("train.unfreeze_from: no epoch is left after train.freeze_epochs")


def loads(text: str) -> Recipe:
    """Return the recipe that a TOML text describes; what it leaves out keeps its default.

    >>> loads("train.epochs = 3").train.epochs
    3
    """
    try:
        return _make(Recipe, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"received text that is not TOML: {error}") from None


def load(source: str | Path) -> Recipe:
    """Return the recipe in a file named `*.toml`, or the default one of a network's name.

    >>> load("vgg16").model.name
    'vgg16'
    """
    if Path(source).suffix != ".toml":
        return Recipe(model=Model(name=str(source)))
    try:
        return loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"recipe {source}: {error}") from None


def to_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, without its Nones: TOML has no such value.

    >>> loads(to_toml(Recipe(seed=7))) == Recipe(seed=7)
    True
    """
    return tomli_w.dumps(
        asdict(recipe, dict_factory=lambda items: {k: v for k, v in items if v is not None})
    )


def override(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return the recipe with settings "a.b=value" laid over it, the last one winning.

    A value is read as TOML (`3`, `1e-3`, `true`, `[1, 2]`) and, where it is none, as bare text.

    >>> override(Recipe(), ["train.optimizer=sgd", "model.spec.3a.conv1=32"]).model.spec
    {'3a': {'conv1': 32}}
    """
    return _make(Recipe, reduce(_lay_over, map(_parse, settings), asdict(recipe)))


def _parse(setting: str) -> Any:
    """Return the nested table that a setting stands for."""
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"received the setting {setting!r}; write key=value, as train.epochs=10")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return reduce(lambda inner, key: {key: inner}, reversed(keys), value)


def _lay_over(base: Any, changes: Any) -> Any:
    """Return `base` with `changes` laid over it; the keys of a list are its indices."""
    if isinstance(base, Mapping) and isinstance(changes, Mapping):
        return {**base, **{k: _lay_over(base.get(k), v) for k, v in changes.items()}}
    if isinstance(base, list) and isinstance(changes, Mapping):
        merged = _lay_over({str(i): v for i, v in enumerate(base)}, changes)
        return list(merged.values()) if len(merged) == len(base) else merged
    return changes


def _keys(section: Any, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(section).items():
        yield prefix + name
        if is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{name}.")


def _make(section: Any, table: Mapping[str, Any], prefix: str = "") -> Any:
    """Return the section that a table describes, or refuse its unknown key."""
    known = get_type_hints(section)
    for key in (prefix + name for name in table if name not in known):
        close = suggest(key, _keys(Recipe))
        raise UsageError(f'unknown recipe key "{key}"; allowed are {", ".join(known)}{close}')
    return section(**table)


def _checked(hint: Any, value: Any, key: str) -> Any:
    """Return a value as its type hint wants it, or refuse it by its key."""
    if type(None) in get_args(hint):
        return None if value is None else _checked(get_args(hint)[0], value, key)
    kind, rule = get_args(hint) or (hint, Rule("a table of keys"))
    if is_dataclass(kind) and isinstance(value, Mapping):
        value = _make(kind, value, f"{key}.")
    elif kind is dict:
        value = to_dict(value)
    elif kind is tuple and isinstance(value, list):
        value = tuple(value)
    elif kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or not rule.holds(value):
        close = suggest(str(value), map(str, rule.choices))
        raise UsageError(f"{key}: received {value!r}, but it must be {rule.words}{close}")
    return value
