"""list and show: the networks, and what each of them costs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_cnns.errors import UsageError
from keras_cnns.terminal import Amount, as_json, print_json, settings, table, working

if TYPE_CHECKING:
    from keras_cnns.trace import Row


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--family", help="Only of this family, as ResNet.")
@click.option("--max-params", type=Amount(), help="At most so many parameters, as 10M.")
@click.option("--max-macs", type=Amount(), help="At most so many multiply-adds, as 1G.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@as_json
def list_(
    pattern: str,
    family: str | None,
    max_params: int | None,
    max_macs: int | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """List the networks whose names match PATTERN, as vgg*."""
    from keras_cnns import zoo

    names = zoo.list_models(pattern, family=family, max_params=max_params, max_macs=max_macs)
    nets = [zoo.get(name) for name in names]
    fields = ("name", "year", "family", "params", "macs", "input_shape", "min_size", "source")
    rows = [tuple(getattr(net, field) for field in fields) for net in nets]
    limits = " within these limits" if family or max_params or max_macs else ""
    nothing = f'no network matches "{pattern}"{limits}; keras-cnns list names them all'
    if as_json:
        if not nets:
            click.echo(nothing, err=True)
        return print_json([dict(zip(fields, row, strict=True)) for row in rows])
    if not nets:
        raise UsageError(nothing)
    header = ("name", "year", "family", "params", "MACs", "input", "smallest", "source")
    rows = [(name, str(year), *rest) for name, year, *rest in rows]
    table(header, rows, markdown=markdown)


@click.command()
@click.argument("network", metavar="NET|RECIPE.toml|RUN|FILE.keras")
@click.option("--layers", is_flag=True, help="Print the table of layers.")
@settings
@click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(1), help="For training."
)
@click.option("--html", type=click.Path(path_type=Path), help="Draw the network on a page.")
@as_json
def show(
    network: str, layers: bool, settings: Any, batch_size: int, html: Path | None, as_json: bool
) -> None:
    """Show what a network costs, its spec, its layers."""
    from keras_cnns import cost, runs
    from keras_cnns.show import find, summary

    if html and html.is_dir():
        raise UsageError(f"{html} is a folder; --html is a file")
    with working():
        found, spec = find(network, settings)
    if html and not found.layers:
        raise UsageError(f"{found.name} has no layers; there is nothing to draw")
    if html:
        from keras_cnns import picture

        runs.prepare_folder(html.resolve().parent)
        picture.write(html, found, batch_size=batch_size)
    if as_json:
        return print_json(
            cost.to_json(found, batch_size=batch_size) | ({"spec": spec} if spec else {})
        )
    for line in summary(found, batch_size=batch_size):
        click.echo(line)
    for row, value in (spec or {}).items():
        click.echo(f"  {row} = {json.dumps(value)}")
    if layers:
        header = ("layer", "type", "output", "params", "MACs", "bytes", "sees", "stride")
        table(header, [_layer(row) for row in found.layers])
    if html:
        click.echo(f"{html} shows it")


def _layer(row: "Row") -> tuple[Any, ...]:
    return (
        row.name, row.kind, row.shape, row.params, row.macs, row.activation_bytes,
        row.receptive_field, row.stride,
    )  # fmt: skip
