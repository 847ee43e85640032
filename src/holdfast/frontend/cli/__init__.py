"""The command line. Verbs make things; nouns (`data`, `features`, `models`, `deployments`) look at them and go back.

Commands know only the client (`holdfast.frontend.client`), and only load it when they run: `--help` stays fast.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.errors import HoldfastError
from holdfast.frontend.cli import (
    backups,
    data,
    definitions,
    demo,
    features,
    jobs,
    keys,
    models,
    project,
    rollouts,
    serving,
    undo,
    versions,
)  # fmt: skip
from holdfast.frontend.cli.session import complain

__all__ = ["main"]

_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
_DEBUG = "HOLDFAST_DEBUG"


def _tell(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


_app = typer.Typer(
    name="holdfast",
    help="From raw tables to a served, explained, traceable model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (
    project, data, versions, features, definitions, models, rollouts, serving, keys, jobs, undo, backups, demo,
):  # fmt: skip
    _module.register(_app)


@_app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_tell)
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave: status 0 done, 1 it failed and said why, 2 it was called wrongly.

    With HOLDFAST_DEBUG=1 an error leaves with its traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        _app(args=given, prog_name="holdfast", standalone_mode=not as_json)
    except HoldfastError as error:
        if os.environ.get(_DEBUG, "") not in {"", "0"}:
            raise
        complain(error, as_json)
        sys.exit(1)
    except _USAGE_ERROR as error:
        complain(_usage(error), as_json)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output left (`holdfast ... | head`); nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _usage(error: BaseException) -> HoldfastError:
    message = getattr(error, "format_message", lambda: str(error))()
    usage = HoldfastError(message, hint="See: holdfast --help")
    usage.code = "usage"
    return usage
