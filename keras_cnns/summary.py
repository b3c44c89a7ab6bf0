"""What a run came to: its metrics.json and its report.html."""

from pathlib import Path
from typing import Any

from keras_cnns import data, evaluate, report, runs
from keras_cnns.cost import cost
from keras_cnns.crops import PLAIN, Views
from keras_cnns.runs import Run


def summarise(
    run: Run,
    split: str,
    source: data.Source,
    *,
    precision: str = "auto",
    views: Views = PLAIN,
) -> dict[str, Any]:
    """Evaluate a run on a split; keep its metrics.json and report.html; return the evaluation.

    In metrics.json it is called as the split, with the views where they are not plain:
    "test, 10 crops".
    """
    runs.prepare_folder(run.path)
    found = evaluate.evaluate(run, source, split, precision=precision, views=views)
    name = ", ".join(filter(None, (split, views.words)))
    runs.write_metrics(run, name, found["metrics"])
    write_page(run, found, name)
    return found


def write_page(run: Run, evaluation: dict[str, Any] | None = None, name: str = "") -> None:
    """Write report.html of a run: its curves, and what it gets right where that is known.

    Args:
        run: the run.
        evaluation: what the page shows in full.
        name: what that is called in metrics.json, whose other accuracies are named too.
    """
    recipe = run.recipe
    size = cost(
        recipe.model.name,
        input_shape=run.image_shape,
        num_classes=len(run.labels),
        spec=recipe.model.spec,
    )
    measured = runs.evaluations(run)
    if name in measured:
        measured = {name: measured[name], **measured}
    right = {f"{key} accuracy": f"{each['accuracy']:.2%}" for key, each in measured.items()}
    facts = right | {
        "network": recipe.model.name,
        "data": recipe.data.name,
        "image": "x".join(map(str, run.image_shape)),
        "parameters": f"{size.params:,}",
        "MACs": f"{size.macs:,}",
    }
    report.write(
        run.path / "report.html",
        f"{recipe.model.name} on {Path(recipe.data.name).name}",
        facts=facts,
        history=runs.read_history(run.path),
        evaluation=evaluation,
    )
