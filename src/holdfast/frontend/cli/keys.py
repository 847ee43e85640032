"""Commands about API keys: who may ask the servers for what."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.render import cell, when
from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    keys = typer.Typer(help="API keys: who may ask the servers for what.", no_args_is_help=True)
    for name, function in (("add", add), ("list", list_), ("revoke", revoke)):
        command(keys, name)(function)
    app.add_typer(keys, name="keys")


def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person or program that gets it.")],
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="predictor, viewer, scientist, operator or admin.")
    ],
    expires: Annotated[str | None, typer.Option("--expires", metavar="TIME", help="How long it lives: 90d.")] = None,
) -> None:
    """Make a key and show it, this once. From the first one on every request needs a key."""
    first = not session.project.keys()
    made = session.project.add_key(name, role, expires=expires)

    def human() -> None:
        until = f" until {when(made.expires_at)}" if made.expires_at else ""
        session.say(f"{cell(made.name)} is {made.role}{until}", made.key)
        session.say("Keep it now: it is shown only here, and stored nowhere. Send it as `Authorization: Bearer KEY`.")
        if first:
            session.say("This is the first key: from now on every request to the servers needs one.")

    session.show(made, human)


def list_(session: Session) -> None:
    """List the keys that were ever made, oldest first."""
    found = session.project.keys()
    session.show(found, lambda: _table(session, found))


def revoke(
    session: Session,
    which: Annotated[str, typer.Argument(metavar="KEY", help="Its id, or a name: all keys of that name.")],
) -> None:
    """End a key, for ever; servers follow within a second."""
    found = session.project.revoke_key(which)
    session.show(found, lambda: _table(session, found))


def _table(session: Session, keys: Sequence[Any]) -> None:
    session.table(
        ("key", "name", "role", "made", "expires", "state"),
        [(one.id, one.name, one.role, when(one.made_at), when(one.expires_at), one.state) for one in keys],
    )
