"""Commands about jobs: run them in the background, look at them, stop them, begin them anew."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.frontend.cli.render import cell, when
from holdfast.frontend.cli.session import Session, command

if TYPE_CHECKING:
    from holdfast.backend.records import Job

__all__ = ["register"]

_JOB = typer.Argument(metavar="JOB", help="Its id, or how the id ends.")
_LOOK = 0.2
_WIDE = 100
_ENDED = ("done", "cancelled", "dead")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(worker)
    jobs = typer.Typer(help="Jobs: what was done, is done and waits.", no_args_is_help=True)
    for function, name in (
        (listed, "list"), (show, "show"), (watch, "watch"), (cancel, "cancel"), (retry, "retry"),
        (schedules, "schedules"),
    ):  # fmt: skip
        command(jobs, name)(function)
    app.add_typer(jobs, name="jobs")


def worker(
    session: Session,
    processes: Annotated[int, typer.Option("--processes", min=1, max=256, help="Jobs at a time.")] = 1,
    drain: Annotated[bool, typer.Option("--drain", help="Stop when no job is left.")] = False,
) -> None:
    """Run jobs that wait, whose process died, or that a schedule sends, until Ctrl-C."""
    before = {job.id for job in session.project.jobs.list(limit=10_000) if job.state in _ENDED}
    if not drain and not session.as_json:
        session.say(f"working on {session.project.settings.project} with {processes} processes; Ctrl-C ends it")
    session.project.work(processes=processes, drain=drain)
    ended = [job for job in session.project.jobs.list(limit=10_000) if job.state in _ENDED and job.id not in before]
    session.show(ended, lambda: _table(session, ended[::-1]))


def listed(
    session: Session,
    state: Annotated[str | None, typer.Option("--state", help="queued, running, done, cancelled or dead.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Such as train.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=2**31 - 1, help="How many, newest first.")] = 20,
) -> None:
    """List jobs, newest first."""
    if state is not None and state not in {*_ENDED, "queued", "running"}:
        raise typer.BadParameter(f"{state!r} is no state: queued, running, done, cancelled or dead")
    found = session.project.jobs.list(state=state, kind=kind, limit=limit)
    session.show(found, lambda: _table(session, found))


def _table(session: Session, found: "list[Job]") -> None:
    rows = [
        (job.id, job.kind, job.state, when(job.made_at), job.attempts, _share(job),
         job.error["message"] if job.error else job.message)
        for job in found
    ]  # fmt: skip
    session.table(("job", "kind", "state", "made", "tries", "done", "what"), rows)


def _share(job: "Job") -> str:
    return f"{100 * job.done // job.total} %" if job.total else ""


def show(session: Session, job: Annotated[str, _JOB]) -> None:
    """Show one job: what was asked, its steps, how it ended."""
    found = session.project.jobs.get(job)
    steps = session.project.jobs.steps(found.id)

    def human() -> None:
        _table(session, [found])
        session.say(f"arguments: {cell(found.arguments)}", f"by {found.who}, Holdfast {found.program}")
        session.say(*(f"{name}: {cell(value)}" for name, value in _more(found).items()))
        rows = [(s.name, s.attempt, (s.ended_at - s.began_at) / 1e6, _short(cell(s.result))) for s in steps]
        session.table(("step", "attempt", "seconds", "result"), rows)

    session.show({**session.fields(found), "steps": steps}, human)


def _short(text: str) -> str:
    return text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"


def _more(job: "Job") -> dict[str, Any]:
    more = {"because of": job.cause, "result": job.result, "error": job.error}
    return {name: value for name, value in more.items() if value is not None}


def watch(session: Session, job: Annotated[str, _JOB]) -> None:
    """Follow a job until it ends; the exit code is 1 unless it is done."""
    jobs = session.project.jobs
    with session.progress() as report:
        while (found := jobs.get(job)).state not in _ENDED:
            report(found.done, max(found.total, 1), found.message or found.state)
            time.sleep(_LOOK)
    session.show(found, lambda: _table(session, [found]))
    if found.state != "done":
        raise typer.Exit(1)


def cancel(
    session: Session, job: Annotated[str, _JOB], why: Annotated[str, typer.Option("--why", help="For the log.")] = ""
) -> None:
    """Cancel a job: one that waits at once, one that runs at its next step; a worker kills it."""
    found = session.project.jobs.cancel(session.project.jobs.get(job).id, why)
    session.show(found, lambda: _table(session, [found]))


def retry(session: Session, job: Annotated[str, _JOB]) -> None:
    """Let a dead or cancelled job begin anew; steps that it did stay done. A worker runs it."""
    found = session.project.jobs.retry(session.project.jobs.get(job).id)
    session.show(found, lambda: _table(session, [found]))


def schedules(session: Session) -> None:
    """List the schedules of the project file, and when each is due next."""
    found = session.project.schedules()
    rows = [(name, one["cron"], one["job"], cell(one["arguments"]), when(one["next"])) for name, one in found.items()]
    session.show(found, lambda: session.table(("schedule", "cron", "job", "arguments", "next"), rows))
