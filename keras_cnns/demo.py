"""All of it in minutes: train, search, export and verify on the digits of scikit-learn."""

from collections.abc import Callable
from pathlib import Path

from keras_cnns import recipe as recipes, report, runs, summary, train, tune, zoo
from keras_cnns.cost import cost
from keras_cnns.export.subject import export_subject
from keras_cnns.tune import pictures

# GoogLeNet at a quarter of its filters, with the stem for small images.
NETWORK = ("model.name=inception_v1", "model.width=0.25", "model.spec.stem.kind=small")
TRAINING = ("data.batch_size=32", "train.epochs=12")
SEARCH = ("train.epochs=2",)
TRIALS = 6


def demo(out: Path, *, echo: Callable[[str], object] = print) -> bool:
    """Train, search, export, verify, and show it all in one report.

    Args:
        out: the folder; called again on the same one, it goes on where it stopped.
        echo: called with a line of text before each step.

    Returns:
        Whether every exported file agrees with the model.
    """
    runs.prepare_folder(out)
    recipe = recipes.override(recipes.Recipe(), [*NETWORK, *TRAINING])

    echo("1/4 training inception_v1, narrowed for 32 pixels, on the digits")
    run = train.train(recipe, out / "run")
    source = runs.open_data(run.recipe)
    found = summary.summarise(run, "test", source)
    echo(f"    test accuracy {found['metrics']['accuracy']:.2%}")

    size = cost(
        run.recipe.model.name,
        input_shape=run.image_shape,
        num_classes=len(run.labels),
        spec=run.recipe.model.spec,
    )
    echo(f"2/4 searching its channel splits: {TRIALS} trials of at most {size.macs:,} MACs")
    searched = tune.tune(
        recipes.override(recipe, SEARCH), out / "search", trials=TRIALS, max_macs=size.macs
    )

    echo("3/4 exporting, each file compared with the model in its own runtime")
    made = export_subject(
        str(out / "run"),
        out / "artifacts",
        formats=("savedmodel", "tflite", "onnx"),
        quantize=("float16", "int8"),
        progress=lambda line: echo(f"    {line}"),
    )

    echo("4/4 writing the report")
    facts = {
        "test accuracy": f"{found['metrics']['accuracy']:.2%}",
        "network": zoo.get(run.recipe.model.name).name,
        "data": "the digits of scikit-learn",
        "parameters": f"{size.params:,}",
        "MACs": f"{size.macs:,}",
    }
    report.write(
        out / "report.html",
        "keras_cnns: GoogLeNet on handwritten digits",
        facts=facts,
        history=runs.read_history(run.path),
        evaluation=found,
        trials=pictures.told(searched),
        artifacts=made["artifacts"],
    )
    return all(record["passed"] for record in made["artifacts"])
