"""Commands about rollouts: new models on trial beside those that answer; and what became of predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.models import versions_of
from holdfast.frontend.cli.render import cell, when
from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]

_TARGET = typer.Argument(metavar="TARGET", help="By default the only one.")
_WHY = typer.Option("--why", help="For those who look later.")
_NAMES = {"canary": "canary", "shadow": "shadow", "ab": "A/B", "green": "blue/green"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    rollout = typer.Typer(help="New models on trial: canary, shadow, A/B, blue/green.", no_args_is_help=True)
    for function, name in (
        (start, "start"), (status, "status"), (listed, "list"), (promote, "promote"), (stop, "stop"),
    ):  # fmt: skip
        command(rollout, name)(function)
    app.add_typer(rollout, name="rollout")
    outcomes = typer.Typer(help="What became of predictions.", no_args_is_help=True)
    command(outcomes, "add")(add_outcomes)
    app.add_typer(outcomes, name="outcomes")


def start(
    session: Session,
    target: Annotated[str | None, _TARGET] = None,
    *,
    canary: Annotated[bool, typer.Option("--canary", help="A growing share of the requests.")] = False,
    shadow: Annotated[bool, typer.Option("--shadow", help="Copies of the requests; nobody gets its answers.")] = False,
    ab: Annotated[bool, typer.Option("--ab", help="A fixed share, until one is better for certain.")] = False,
    blue_green: Annotated[bool, typer.Option("--blue-green", help="All requests at once; back at once.")] = False,
    share: Annotated[
        float | None, typer.Option("--share", min=0.0001, max=1.0, help="Of the requests: 0.05 is one in twenty.")
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long each step lasts: 30s, 10min, 2h, 7d.")
    ] = None,
    version: Annotated[
        list[str] | None, typer.Option("--version", metavar="LABEL=VERSION", help="Another than the current version.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Why, for those who look later.")] = "",
) -> None:
    """Put the current models of a target on trial; a running server watches them, promotes or rolls back by itself."""
    chosen = [mode for mode, asked in zip(_NAMES, (canary, shadow, ab, blue_green), strict=True) if asked]
    if len(chosen) != 1:
        raise typer.BadParameter("say one of --canary, --shadow, --ab, --blue-green")
    seconds = None if for_ is None else session.seconds(for_)
    made = session.project.start_rollout(
        chosen[0], target, versions=versions_of(version), share=share, seconds=seconds, note=note
    )

    def human() -> None:
        session.say(
            f"{_NAMES[made.mode]} of {made.target}: {made.candidate} beside {made.stable} ({made.id})",
            f"next: holdfast rollout status {made.target}",
        )

    session.show(made, human)


def status(session: Session, target: Annotated[str | None, _TARGET] = None) -> None:
    """Show how the rollout of a target goes, or how its last one went: counts, rules, decisions."""
    found = session.project.rollout_status(target)
    session.show(found, lambda: _show(session, found))


def _show(session: Session, found: Mapping[str, Any]) -> None:
    session.say(
        f"{_NAMES[found['mode']]} of {found['target']}: {found['state']}, step {found['step'] + 1} of"
        f" {len(found['policy']['steps'])}, share {found['share']:g} ({found['id']})",
        f"stable {found['stable']}, candidate {found['candidate']}",
    )
    now = found.get("now")
    if now:
        columns = ("requests", "errors", "p50_ms", "p95_ms")
        session.table(("arm", *columns), [(arm, *(now[arm][c] for c in columns)) for arm in ("stable", "candidate")])
        findings = now["findings"]
    else:
        findings = found["events"][-1]["evidence"].get("findings", [])
    session.table(
        ("rule", "label", "verdict", "what"), [(f["rule"], f["label"], f["verdict"], f["words"]) for f in findings]
    )
    session.table(
        ("at", "by", "decision", "share", "why"),
        [(e["at"][:19] + "Z", e["who"], e["action"], e["share"], e["reason"]) for e in found["events"]],
    )
    if now:
        session.say(f"now: {now['action']}: {cell(now['reason'])}")


def listed(session: Session, target: Annotated[str | None, _TARGET] = None) -> None:
    """List rollouts, newest first."""
    rollouts = session.project.rollouts
    found = [(one, rollouts.events(one.id)[-1]) for one in rollouts.history(target)]
    rows = [
        (one.id, one.target, _NAMES[one.mode], when(one.made_at), last.state, last.share, last.reason)
        for one, last in found
    ]
    plain = [
        {**session.fields(one), "state": last.state, "step": last.step, "share": last.share, "reason": last.reason}
        for one, last in found
    ]
    session.show(plain, lambda: session.table(("rollout", "target", "mode", "started", "state", "share", "why"), rows))


def promote(session: Session, target: Annotated[str | None, _TARGET] = None, why: Annotated[str, _WHY] = "") -> None:
    """Let the candidate answer everything, now."""
    found = session.project.promote(target, why=why)
    session.show(found, lambda: session.say(f"promoted: {cell(found.reason)} ({found.rollout})"))


def stop(session: Session, target: Annotated[str | None, _TARGET] = None, why: Annotated[str, _WHY] = "") -> None:
    """End the rollout: the stable deployment answers everything."""
    found = session.project.stop_rollout(target, why=why)
    session.show(found, lambda: session.say(f"stopped: {cell(found.reason)} ({found.rollout})"))


def add_outcomes(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="With the columns prediction, label, value.")],
) -> None:
    """Tell what became of predictions: true labels, or metrics of your own. To tell it again changes nothing."""
    made = session.project.add_outcomes(file)
    session.show(
        made,
        lambda: session.say(f"{made.added:,} added, {made.known:,} known already, {made.changed:,} corrected"),
    )
