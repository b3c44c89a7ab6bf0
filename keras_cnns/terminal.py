"""What the commands have in common: options, tables, JSON, numbers such as 60M, a clean output."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from keras_cnns.recipe import Recipe

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
data_dir = click.option("--data-dir", help="Where TFDS keeps its data sets [TFDS_DATA_DIR].")
settings = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe."
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    help="Of a run's network [auto: bfloat16 where the processor has instructions for it].",
)
DATA_HELP = "digits, a TFDS name, or a folder with one sub-folder of images per class."


@contextmanager
def working() -> Iterator[None]:
    """Send to standard error what libraries print, and quiet TensorFlow's start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with redirect_stdout(sys.stderr):
        yield


def print_json(document: Any) -> None:
    """Print a JSON document on standard output."""
    click.echo(json.dumps(document, indent=1))


def table(header: tuple[str, ...], rows: list[tuple[Any, ...]], *, markdown: bool = False) -> None:
    """Print columns, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [bool(rows) and isinstance(value, int | float) for value in (rows or [header])[0]]
    if markdown:
        dashes = ["---:" if number else "---" for number in right]
        for line in (header, dashes, *cells):
            click.echo(f"| {' | '.join(line)} |")
        return
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in (list(header), *cells):
        parts = [
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )


def recipe_of(network: str, data: str, data_dir: str | None, settings: tuple[str, ...]) -> "Recipe":
    """Return the recipe that a command names, with its data and settings laid over it."""
    from keras_cnns import recipe as recipes, zoo

    recipe = recipes.load(network)
    recipe = replace(recipe, data=replace(recipe.data, name=data, dir=data_dir or recipe.data.dir))
    recipe = recipes.override(recipe, settings)
    zoo.get(recipe.model.name)
    return recipe


class Amount(click.ParamType):
    """A whole number, also as 60M or 1.2G."""

    name = "number"

    def convert(self, value: Any, param: Any, context: Any) -> int:
        """Return the number that a text such as "60M" stands for."""
        found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)([kMG]?)", str(value))
        scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
        amount = round(float(found[1]) * scale[found[2]]) if found else 0
        if not amount:
            self.fail(f'"{value}" is not a number above 0; write it as 60000000, 60M or 1.2G')
        return amount
