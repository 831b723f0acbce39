"""The entry point: global options, and which commands there are."""

import gc
import platform
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from nydusify.cli import errors, logs
from nydusify.cli.convert import convert
from nydusify.cli.run import run

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in errors.EXIT_CODES.items()) + "."
SETTINGS = {"help_option_names": ["-h", "--help"]}

# Rich would cost a third of the start-up time, and its pretty traces show local variables, which may be secrets.
app = typer.Typer(
    name="nydusify",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    epilog=EPILOG,
)


def show_version(wanted: bool) -> None:
    """Print the versions of this package, of the bytes it builds, and of Python; then exit."""
    if not wanted:
        return
    from nydusify import __version__
    from nydusify.build import BUILDER_VERSION

    print(f"Version: {__version__}\nBuilder: {BUILDER_VERSION}\nPython:  {platform.python_version()}")
    raise typer.Exit


@app.callback()
def global_options(
    debug: Annotated[
        bool, Option("--debug", "-D", envvar="DEBUG_LOG_LEVEL", help="Debug logs; beats --log-level.")
    ] = False,
    log_level: Annotated[
        str, Option("--log-level", "-l", envvar="LOG_LEVEL", help="panic, fatal, error, warn, info, debug or trace.")
    ] = "info",
    log_file: Annotated[
        Path | None, Option(envvar="LOG_FILE", metavar="PATH", help="Append logs to this file instead of stderr.")
    ] = None,
    version: Annotated[
        bool,
        Option("--version", "-v", callback=show_version, is_eager=True, help="Show the versions and exit."),
    ] = False,
) -> None:
    """Converts OCI and Docker images into Nydus images.

    Credentials come from the Docker configuration. Options can be given as environment variables, too.
    """
    logs.set_up(log_level, debug, log_file)


app.command(context_settings=SETTINGS, epilog=EPILOG)(convert)
app.command(context_settings=SETTINGS, epilog=EPILOG)(run)


def main() -> None:
    """Run the command and exit; the codes are in docs/exit-codes.md."""
    errors.stop_on_signals()
    gc.set_threshold(100_000, 50, 100)  # trees of inodes have no cycles: looking for some costs a twentieth of a run
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    with errors.reported():
        app(prog_name="nydusify")
