"""Commands about features: make them from the tables, look at definitions, compute matrices; the feature store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.frontend.cli import explore
from holdfast.frontend.cli.render import cell, when
from holdfast.frontend.cli.session import Session, command

if TYPE_CHECKING:
    from holdfast.backend.records import FeatureGroup

__all__ = ["register"]

_TARGET = typer.Argument(metavar="TARGET", help="By default the only one.")
_GROUP = typer.Argument(metavar="GROUP", help="A feature group of the project file.")
_VERSION = typer.Option("--version", metavar="VERSION", help="Of this version of the data; by default the current one.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    features = typer.Typer(help="Features: make them, look at them, compute them.", no_args_is_help=True)
    for function, name in ((synthesise, "synthesise"), (list_sets, "list"), (show, "show"), (matrix, "matrix")):
        command(features, name)(function)
    command(features)(materialise)
    command(features)(vector)
    command(features)(freshness)
    command(features, "export-feast")(export_feast)
    groups = typer.Typer(help="Feature groups: what is looked up together.", no_args_is_help=True)
    command(groups, "list")(list_groups)
    command(groups, "show")(show_group)
    command(groups)(search)
    features.add_typer(groups, name="groups")
    explore.register(features)
    app.add_typer(features, name="features")


def synthesise(
    session: Session,
    target: Annotated[str | None, _TARGET] = None,
    version: Annotated[str | None, _VERSION] = None,
) -> None:
    """Make the features of a target from tables, keys, links and times."""
    found = session.project.synthesise(target, version=version)

    def human() -> None:
        count = len(found.feature_set.features)
        session.say(f"{count} features of {found.record.name}: {found.record.id[:12]}")
        if found.cut:
            many = f"{found.cut}" if found.counted else f"at least {found.cut:,}"
            session.say(f"{many} more were left out by features.max")
        session.say(f"next: holdfast features show {found.record.name}")

    names = list(found.feature_set.names)
    session.show({"id": found.record.id, "target": found.record.name, "features": names, "cut": found.cut}, human)


def list_sets(session: Session) -> None:
    """List feature sets and matrices, newest first."""
    sets, matrices = session.project.features.sets(), session.project.features.matrices()

    def human() -> None:
        session.table(
            ("set", "target", "features", "made"),
            [(s.id[:12], s.name, len(s.definitions["features"]), when(s.made_at)) for s in sets],
        )
        session.table(
            ("matrix", "target", "set", "rows", "seconds", "file"),
            [(m.id[:12], m.target, m.feature_set[:12], m.rows, m.seconds, m.path) for m in matrices],
        )

    listed = [
        {"id": s.id, "target": s.name, "made_at": s.made_at, "dataset": s.dataset,
         "features": len(s.definitions["features"])}
        for s in sets
    ]  # fmt: skip
    session.show({"sets": listed, "matrices": matrices}, human)


def show(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="TARGET", help="A target, or the beginning of a set's id.")],
    search: Annotated[str, typer.Option("--search", help="Only features whose name or words have this in them.")] = "",
) -> None:
    """Show the definitions of a feature set: name, type and what it says."""
    definitions = session.project.definitions(name)
    found = [d for d in definitions if search.lower() in f"{d['name']} {d['description']}".lower()]

    def human() -> None:
        session.table(("feature", "type", "what it is"), [(d["name"], d["type"], d["description"]) for d in found])
        session.say(f"{len(found)} of {len(definitions)} features")

    session.show(found, human)


def matrix(
    session: Session,
    target: Annotated[str | None, _TARGET] = None,
    version: Annotated[str | None, _VERSION] = None,
    full: Annotated[bool, typer.Option("--full", help="Take nothing over from an older matrix.")] = False,
) -> None:
    """Compute the features of every asked row, each from what was known before its cutoff."""
    with session.progress() as report:
        built = session.project.matrix(target, version=version, full=full, progress=report)
    record = built.matrix.record

    def human() -> None:
        count = len(built.matrix.feature_set.features)
        session.say(f"{record.rows:,} rows × {count} features in {record.seconds:.2f} s: {record.path}")
        if built.reused:
            session.say(f"{built.reused:,} rows are as in an older matrix: not computed again")
        session.say(*(f"left out: {number:,} rows, {why}" for why, number in (built.matrix.dropped or {}).items()))
        if built.late:
            session.say(f"{built.late:,} labels were known too late to train on")

    session.show(
        {**session.fields(record), "dropped": built.matrix.dropped, "late": built.late, "reused": built.reused}, human
    )


def list_groups(session: Session) -> None:
    """List the feature groups of the project file."""
    _listed(session, session.project.feature_groups.list())


def search(
    session: Session,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words in name, owner, tags, description or features.")],
) -> None:
    """Find feature groups by words in their name, entity, owner, description, tags, or in what a feature is."""
    _listed(session, session.project.feature_groups.search(text))


def _listed(session: Session, groups: "list[FeatureGroup]") -> None:
    def human() -> None:
        session.table(
            ("group", "version", "entity", "features", "ttl", "owner", "tags", "description"),
            [
                (
                    g.name,
                    g.id[:12],
                    g.entity,
                    len(g.definitions["features"]),
                    _ttl(g.ttl),
                    g.owner,
                    g.tags,
                    g.description,
                )
                for g in groups
            ],
        )
        if not groups:
            session.say("no feature group; name them under `feature_groups` in holdfast.yaml")

    session.show([_group(session, group) for group in groups], human)


def show_group(session: Session, group: Annotated[str, _GROUP]) -> None:
    """Show a group: its features, its versions, and what was materialised of it."""
    room = session.project.feature_groups
    found = room.get(group)
    versions, made = room.versions(group), room.materialisations(group)
    definitions = room.definitions(found)

    def human() -> None:
        session.say(
            f"{found.name} {found.id[:12]}, of {found.entity}" + (f", kept {_ttl(found.ttl)}" if found.ttl else "")
        )
        session.say(
            *(f"{name}: {value}" for name, value in (("owner", found.owner), ("about", found.description)) if value)
        )
        session.table(
            ("feature", "type", "what it is"), [(d["name"], d["type"], d["description"]) for d in definitions]
        )
        if found.left_out:
            session.say(f"{len(found.left_out)} features of the target need its question and are left out")
        session.table(("version", "registered", "features"), [
            (v.id[:12], when(v.made_at), len(v.definitions["features"])) for v in versions
        ])  # fmt: skip
        if not made:
            session.say(f"next: holdfast features materialise {found.name}")
            return
        session.table(("materialised", "cutoff", "version", "vectors", "seconds"), [
            (when(m.made_at), when(m.cutoff), m.version[:12], m.rows, m.seconds) for m in made
        ])  # fmt: skip

    document = _group(session, found) | {"features": definitions, "versions": [_group(session, v) for v in versions]}
    session.show(document | {"materialisations": [_made(session, one) for one in made]}, human)


def materialise(
    session: Session,
    groups: Annotated[list[str] | None, typer.Argument(metavar="[GROUP...]", help="By default all.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="As of this time (2024-06-30T12:00); by default now.")
    ] = None,
) -> None:
    """Compute feature groups of every entity as of a time, and put them online, each whole or not at all."""
    with session.progress() as report:
        made = session.project.materialise(groups or (), at=at, progress=report)

    def human() -> None:
        for one in made:
            kept = one.rows - one.written
            session.say(
                f"{one.group}: {one.rows:,} vectors as of {when(one.cutoff)} in {one.seconds:.2f} s"
                + (f"; {kept:,} newer ones stay" if kept else "")
            )
        if not made:
            session.say("no feature group; name them under `feature_groups` in holdfast.yaml")

    session.show([_made(session, one) for one in made], human)


def vector(
    session: Session,
    group: Annotated[str, _GROUP],
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="A key of the group's entity.")],
) -> None:
    """Look up the online vector of an entity."""
    (found,) = session.project.get_feature_vectors([entity], group)
    if found is None:
        session.project.get_feature_vector(entity, group)  # says what is missing, and what to do
        return

    def human() -> None:
        session.table(("feature", "value"), [(name, cell(value)) for name, value in found.values.items()])
        until = f", until {when(found.expires_at)}" if found.expires_at is not None else ""
        session.say(f"as of {when(found.event_at)}{until}; made {when(found.made_at)} of {found.origin}")

    session.show({"group": group, **found._asdict()}, human)


def freshness(session: Session) -> None:
    """Show how current each group is online: vectors, age, time to live, and whether there is newer data."""
    found = session.project.feature_freshness()

    def human() -> None:
        session.table(
            ("group", "vectors", "expired", "newest", "age", "ttl", "data", "state"),
            [
                (f.group, f.vectors, f.expired, when(f.newest_at), _age(f.age), _ttl(f.ttl), f.data_version,
                 "never materialised" if f.data_version is None
                 else f"behind: data is {f.current_version}" if f.data_version != f.current_version
                 else "behind: features changed" if f.behind else "current")
                for f in found
            ],
        )  # fmt: skip

    spans = ("age", "ttl")
    documents = [session.fields(one) for one in found]
    session.show(
        [{n: v / 1e6 if n in spans and v is not None else v for n, v in one.items()} for one in documents], human
    )


def export_feast(
    session: Session, folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new repository's folder.")]
) -> None:
    """Write a Feast repository of all groups: definitions, what was materialised, and this server as online store."""
    files = session.project.export_feast(folder)

    def human() -> None:
        session.say(f"wrote {len(files)} files to {folder}", "next: holdfast serve, and there: feast apply")

    session.show({"files": [str(file) for file in files]}, human)


def _group(session: Session, group: "FeatureGroup") -> dict[str, Any]:
    """A group as plain data; its time to live in seconds."""
    data = session.fields(group)
    del data["definitions"]
    ttl = None if group.ttl is None else group.ttl / 1e6
    return data | {"ttl": ttl, "features": len(group.definitions["features"]), "left_out": list(group.left_out)}


def _made(session: Session, one: Any) -> dict[str, Any]:
    data = session.fields(one)
    return data | {"cutoff": when(one.cutoff)}


def _age(microseconds: int | None) -> str:
    """A span of time in the unit that people read."""
    if microseconds is None:
        return ""
    for unit, size in (("d", 86_400e6), ("h", 3_600e6), ("min", 60e6)):
        if abs(microseconds) >= size:
            return f"{microseconds / size:.1f} {unit}"
    return f"{microseconds / 1e6:.1f} s"


def _ttl(microseconds: int | None) -> str:
    from holdfast.core.timeline import format_duration

    return "" if microseconds is None else format_duration(microseconds)
