"""The commands: they parse and print; the work is elsewhere, and Keras is imported only for it."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from keras_cnns import __version__
from keras_cnns.commands import artifacts, checking, networks, searching, testing, training
from keras_cnns.errors import UsageError
from keras_cnns.terminal import working


class Commands(click.Group):
    """Ends with one line on standard error: exit 2 for the user's mistake, 1 for a failed check."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except UsageError as error:
            _end(str(error), 2)
        except click.UsageError as error:
            _end(f"{error.format_message()}; --help says more", 2)
        except KeyboardInterrupt:
            lasting = context.invoked_subcommand in ("train", "tune", "demo")
            _end("stopped" + "; the same command goes on from here" * lasting, 130)
        except RuntimeError as error:
            if type(error).__name__ == "ExportError":
                _end(str(error), 1)
            raise


def _end(message: str, status: int) -> NoReturn:
    click.echo(f"keras-cnns: {' '.join(message.split())}", err=True)
    sys.exit(status)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keras-cnns")
def main() -> None:
    """The classic convolutional networks in Keras: train, search and export them."""


for command in (
    networks.list_,
    networks.show,
    checking.doctor,
    training.train,
    training.report,
    training.compare,
    testing.evaluate,
    testing.predict,
    searching.tune,
    artifacts.export,
    artifacts.verify,
    artifacts.benchmark,
):
    main.add_command(command)


@main.command()
@click.option("--out", default="demo", show_default=True, type=click.Path(path_type=Path))
def demo(out: Path) -> None:
    """Train, search, export and verify on the digits of scikit-learn, in minutes."""
    with working():
        from keras_cnns.demo import demo

        passed = demo(out, echo=lambda line: click.echo(line, err=True))
    click.echo(f"{out / 'report.html'} shows it all")
    sys.exit(0 if passed else 1)
