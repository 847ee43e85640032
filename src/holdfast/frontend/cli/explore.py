"""Commands that explore features: what separates the labels."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]


def register(features: typer.Typer) -> None:
    """Add the commands to the group `features`."""
    command(features, "discover")(discover)


def discover(
    session: Session,
    *,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help="By default the only one.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Only this label.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="So many features, and so many pairs, a label.")] = 10,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw it: .svg, or .json for Vega-Lite.")
    ] = None,
) -> None:
    """Say which features, and which pairs of them, separate the labels, by the training rows."""
    with session.progress() as report:
        found = session.project.discover(target, label=label, top=top, picture=picture, progress=report)

    def human() -> None:
        for one in found:
            kind = "on average" if one.numeric else "of the rows"
            features, pairs = one.tested
            session.say(f"{one.label}: {one.base:.4g} {kind}; {one.rows:,} training rows, {features} features")
            session.say(*(f"  {place}. {single.words}{_more(single)}" for place, single in enumerate(one.singles, 1)))
            if not one.singles:
                session.say("  no feature tells anything about it")
            if one.pairs:
                session.say(f"pairs that say more together, of {pairs} tested")
                session.say(*(f"  {place}. {pair.words}" for place, pair in enumerate(one.pairs, 1)))
        if picture:
            session.say(f"drawn: {picture}")

    session.show([session.fields(one) for one in found], human)


def _more(single: object) -> str:
    alike = getattr(single, "alike", ())
    return f" {len(alike)} more say nearly the same." if alike else ""
