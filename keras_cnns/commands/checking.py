"""doctor: what is wrong with a folder of images, before anything is trained on it."""

import sys

import click

from keras_cnns.terminal import as_json, print_json, table, working


@click.command()
@click.argument("data", metavar="FOLDER")
@click.option("--strict", is_flag=True, help="Exit with 1 where anything is wrong.")
@as_json
def doctor(data: str, strict: bool, as_json: bool) -> None:
    """Look at every image of a folder, once: what cannot be used, what is odd, what leaks.

    A second look only takes what has changed. Training leaves out what cannot be used.
    """
    with working():
        from keras_cnns.data import diagnose

        found = diagnose(data)
    if as_json:
        print_json(found)
    else:
        _print(found)
    sys.exit(1 if strict and not found["passed"] else 0)


def _print(found: dict) -> None:
    rows = [
        (row["file"], finding["kind"], finding["why"], "used" if row["usable"] else "LEFT OUT")
        for row in sorted(found["files"], key=lambda row: row["usable"])
        for finding in row["findings"]
    ]
    if rows:
        table(("file", "kind", "why", ""), rows)
    for line in found["warnings"]:
        click.echo(f"warning: {line}")
    bad = found["images"] - found["usable"]
    classes = len(found["classes"]["train"])
    click.echo(
        f"{found['images']:,} images in {classes} classes: {bad:,} cannot be used, "
        f"{len(found['warnings'])} warnings"
    )
