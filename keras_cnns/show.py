"""What is to be shown of a network: of a name, a recipe, a run folder or a .keras file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from keras_cnns import recipe as recipes, runs, spec as specs, zoo
from keras_cnns.cost import Cost, cost
from keras_cnns.errors import UsageError
from keras_cnns.memory import in_words

TAKEN = "give a network's name, a RECIPE.toml, a run folder or a .keras file"


class Shown(NamedTuple):
    """A network's cost, and its spec where one is known."""

    cost: Cost
    spec: Any = None


def find(network: str, settings: Iterable[str] = ()) -> Shown:
    """Return what a name, a RECIPE.toml, a run folder or a .keras file stands for.

    What a recipe leaves to the data is the network's own.

    Args:
        network: one of them.
        settings: changes to the recipe of a name or a file, as "model.width=0.5".

    Raises:
        UsageError: where it is none of these, or settings are for what is made already.

    >>> find("lenet5").spec["c3"]
    16
    """
    path, settings = Path(network), tuple(settings)
    made = path.suffix == ".keras" or (path.is_dir() and network and network not in zoo.NETS)
    if made and settings:
        raise UsageError(f"{network}: settings are for a name or a recipe; this is made already")
    if path.suffix == ".keras":
        return Shown(cost(path))
    if made:
        run = runs.open_run(path)
        return _of_recipe(run.recipe, classes=len(run.labels))
    if path.suffix == ".toml" and not path.exists():
        raise UsageError(f"{network}: there is no such file; {TAKEN}")
    if not network or (path.is_file() and path.suffix != ".toml"):
        raise UsageError(f'"{network}" is nothing to show; {TAKEN}')
    return _of_recipe(recipes.override(recipes.load(network), settings))


def _of_recipe(recipe: recipes.Recipe, classes: int | None = None) -> Shown:
    model, data = recipe.model, recipe.data
    net = zoo.get(model.name)
    spec = zoo.spec_of(net.name, model.spec)
    if model.width != 1:
        spec = specs.scale_filters(spec, model.width)
    height, width, channels = net.input_shape
    shape = (data.size or height, data.size or width, data.channels or channels)
    found = cost(
        net.name, input_shape=shape, num_classes=classes, spec=spec, auxiliary=model.auxiliary
    )
    return Shown(found, specs.to_dict(spec))


def summary(found: Cost, *, batch_size: int = 32) -> list[str]:
    """Return what a network needs, in a few lines.

    >>> summary(cost("lenet5"))[0]
    'lenet5: 61,706 parameters, 416,520 MACs'
    """
    taken = " and ".join("x".join(map(str, shape)) for shape in found.inputs.values())
    least = f", at least {found.min_size}x{found.min_size}" if found.min_size else ""
    return [
        f"{found.name}: {found.params:,} parameters, {found.macs:,} MACs",
        f"  takes {taken}{least}",
        f"  inference needs {in_words(found.inference_bytes)} for one image: "
        f"{in_words(found.weights_bytes)} of weights, "
        f"{in_words(found.peak_activation_bytes)} of feature maps at once",
        f"  training needs about {in_words(found.training_bytes(batch_size))} "
        f"at a batch of {batch_size}, with AdamW",
    ]
