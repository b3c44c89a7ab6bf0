"""What a search looks like."""

from pathlib import Path
from typing import Any

from keras_cnns import report
from keras_cnns.recipe import Recipe


def write(place: Path, recipe: Recipe, found: dict[str, Any]) -> None:
    """Write report.html of a search."""
    done = [row for row in found["trials"] if row["score"] is not None]
    facts = {
        "best validation accuracy": f"{max((r['score'] for r in done), default=0):.2%}",
        "network": recipe.model.name,
        "data": recipe.data.name,
        "trials": str(len(found["trials"])),
    }
    title = f"Search over the filters of {recipe.model.name}"
    report.write(place, title, facts=facts, trials=found)
