"""Weights to start from: another training's, or a shallower network's; and which of them wait."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from keras_cnns import builder, spec as specs, weights, zoo
from keras_cnns.errors import UsageError, suggest
from keras_cnns.recipe import Model, Recipe, Train

if TYPE_CHECKING:
    import keras


def rhythm(recipe: Recipe) -> Train:
    """Return the section with when and how fast the layers learn that start from other weights."""
    wanted = recipe.train
    moved = recipe.model.weights is not None and not recipe.model.matching
    freeze, rate = wanted.freeze_epochs, wanted.backbone_rate
    if freeze is None:
        freeze = wanted.epochs // 4 if moved else 0
    if rate is None:
        rate = 0.3 if moved else 1.0
    return replace(wanted, freeze_epochs=freeze, backbone_rate=rate)


def settle(model: Model, input_shape: tuple[int, int, int], begun: Model | None = None) -> Model:
    """Return the section with what its weights bring along: preprocessing, and numbers of the spec.

    Args:
        model: of a recipe; its spec is whole.
        input_shape: of the images.
        begun: the section of a run that has begun; it may outlive the weights that it began with.

    Raises:
        UsageError: for weights that are not there, or are another network's.
    """
    if model.weights is None:
        return replace(model, preprocessing=model.preprocessing or "symmetric")
    if model.weights == "imagenet":
        from keras_cnns.weights import applications

        sibling = applications.sibling_of(zoo.get(model.name))
        return replace(model, preprocessing=model.preprocessing or sibling.preprocessing)
    place = Path(model.weights).resolve()
    files = (str(place), str(place / "model.keras"))
    if begun and begun.weights in files and not Path(begun.weights).is_file():
        # Of the files that bring weights, state dicts alone change the spec.
        changed = begun.weights.endswith(weights.state_dicts.SUFFIXES)
        theirs = model.preprocessing or begun.preprocessing
        spec = begun.spec if changed else model.spec
        return replace(model, weights=begun.weights, preprocessing=theirs, spec=spec)
    if (place / "recipe.toml").is_file():
        place = place / "model.keras"
        if not place.is_file():
            raise UsageError(f"model.weights: {place.parent} has no model.keras; end its training")
    name = str(place)
    if model.matching:
        found = weights.files.read(None, place)
        theirs = model.preprocessing or found.preprocessing or "symmetric"
        return replace(model, weights=name, preprocessing=theirs)
    rows = builder.trace(
        model.name, input_shape=input_shape, spec=model.spec, include_top=False
    ).rows
    carried = weights.carry(
        place,
        zoo.get(model.name),
        rows,
        spec=model.spec,
        include_top=False,
        preprocessing=model.preprocessing,
    )
    merged = specs.merge(zoo.spec_of(model.name, model.spec), carried.spec)
    theirs = model.preprocessing or carried.preprocessing or "symmetric"
    return replace(model, weights=name, preprocessing=theirs, spec=specs.to_dict(merged))


def load(network: "keras.Model", recipe: Recipe) -> int:
    """Give a new network the weights that its recipe starts from; its head stays new.

    Returns:
        How many layers took some.

    Raises:
        UsageError: where they do not fit; names the first layer.
    """
    wanted = recipe.model
    assert wanted.weights is not None
    if wanted.matching:
        values = weights.files.read(None, Path(wanted.weights)).values
        taken = 0
        for layer in network.layers:
            shapes = [tuple(weight.shape) for weight in layer.weights]
            if shapes and [value.shape for value in values.get(layer.name, ())] == shapes:
                layer.set_weights(values[layer.name])
                taken += 1
        if not taken:
            raise UsageError(f"{wanted.weights}: none of its layers fits one of {wanted.name}")
        return taken
    backbone = builder.build(
        wanted.name,
        input_shape=recipe.data.image_shape,
        spec=wanted.spec,
        weights=wanted.weights,
        include_top=False,
        preprocessing=wanted.preprocessing,
    )
    weighted = [layer for layer in backbone.layers if layer.weights]
    for layer in weighted:
        network.get_layer(layer.name).set_weights(layer.get_weights())
    return len(weighted)


def backbone_of(recipe: Recipe) -> list[str]:
    """Return the layers that start from other weights, in order; none where all are new."""
    if recipe.model.weights is None:
        return []
    rows = builder.trace(
        recipe.model.name,
        input_shape=recipe.data.image_shape,
        spec=recipe.model.spec,
        include_top=False,
    ).rows
    return [row.name for row in rows if row.params or row.frozen]


def frozen(recipe: Recipe, phase: int) -> list[str]:
    """Return the layers that do not learn; their normalisations run as in inference.

    Args:
        recipe: a resolved one.
        phase: 0 while train.freeze_epochs last, 1 afterwards.

    Raises:
        UsageError: where train.unfreeze_from is no stage of the network.
    """
    names, first = backbone_of(recipe), recipe.train.unfreeze_from
    if phase == 0:
        return names
    if first is None:
        return []
    starts = [i for i, name in enumerate(names) if name == first or name.startswith(f"{first}_")]
    if not starts:
        stages = list(dict.fromkeys(name.partition("_")[0] for name in names))
        raise UsageError(
            f'train.unfreeze_from: received "{first}"; the stages of {recipe.model.name} are '
            f"{', '.join(stages)}{suggest(first, [*stages, *names])}"
        )
    return names[: starts[0]]


def factors(recipe: Recipe, network: "keras.Model") -> Sequence[float] | None:
    """Return what the learning rate is multiplied by for each variable that learns, if it is."""
    rate = recipe.train.backbone_rate
    slow = set(backbone_of(recipe))
    if rate is None or rate == 1 or not slow:
        return None
    return [
        rate if layer.name in slow else 1.0
        for layer in network.layers
        for _ in layer.trainable_variables
    ]
