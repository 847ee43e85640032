"""Registration, search, materialisation, freshness."""

import json

import pytest

from holdfast.errors import ConfigError, InputError, LockedError, NotFoundError

from .conftest import deliver


def test_groups_are_registered_by_content(project, regrouped):
    first = project.feature_groups.list()
    assert [group.name for group in first] == ["门店统计", "recent", "districts", "risk"]
    assert first == project.feature_groups.list()
    shops = first[0]
    assert (shops.entity, shops.owner, shops.ttl, shops.tags["domain"]) == ("shops", "数据组", None, "卫生")
    assert [d["name"] for d in project.feature_groups.definitions(shops)][:2] == [
        "MEAN(visits.score)", "COUNT(visits, 30d)",
    ]  # fmt: skip
    again = regrouped("feature_groups: {门店统计: {entity: shops, features: [COUNT(visits)], owner: 数据组}}")
    (changed,) = again.feature_groups.list()
    assert changed.id != shops.id
    assert [group.id for group in again.feature_groups.versions("门店统计")] == [changed.id, shops.id]
    with pytest.raises(NotFoundError, match="recent"):
        again.feature_groups.get("recent")


def test_back_to_an_earlier_definition_is_the_earlier_version(project, regrouped):
    before = project.feature_groups.list()
    regrouped("feature_groups: {recent: {entity: shops, features: [seats]}}").feature_groups.list()
    from .conftest import GROUPS

    assert [group.id for group in regrouped(GROUPS).feature_groups.list()] == [group.id for group in before]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("数据组", ["门店统计"]),
        ("卫生", ["门店统计"]),
        ("OPS-team", ["districts"]),
        ("mean score", ["门店统计", "recent", "risk"]),
        ("30d shops", ["门店统计", "recent", "risk"]),
        ("nothing of it", []),
        ("", ["门店统计", "recent", "districts", "risk"]),
    ],
)
def test_search(project, words, found):
    assert [group.name for group in project.feature_groups.search(words)] == found


def test_a_targets_group_leaves_out_what_needs_the_question(project):
    risk = project.feature_groups.get("risk")
    assert "context.type" in risk.left_out
    definitions = project.feature_groups.definitions(risk)
    assert len(definitions) > 20
    assert not any(d["formula"].startswith("context.") for d in definitions)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("{entity: shops, features: [MEEN(visits.score)]}", "feature_groups.x.features"),
        ("{entity: shops, features: ['XYZ*']}", "XYZ"),
        ("{entity: shops, features: [owner]}", "owner"),
        ("{entity: shops, features: [LAST(visits.date)]}", "date"),
        ("{target: nope}", "nope"),
        ("{entity: shops, target: bad, features: [seats]}", "either"),
        ("{entity: visits, target: bad}", "shops"),
    ],
)
def test_what_cannot_be_is_said(regrouped, group, words):
    with pytest.raises(ConfigError, match=words):
        regrouped(f"feature_groups: {{x: {group}}}").feature_groups.list()


def test_one_wrong_group_registers_none(project, regrouped):
    broken = regrouped("feature_groups: {a: {entity: shops, features: [seats]}, b: {entity: shops, features: [sets]}}")
    with pytest.raises(ConfigError, match="sets"):
        broken.materialise()
    assert broken.feature_groups.versions("a") == []


def test_before_the_first_import(tmp_path):
    from .conftest import make

    project = make(tmp_path / "empty", months=0)
    with pytest.raises(NotFoundError, match="no data yet"):
        project.materialise()
    project.close()


def test_vectors_are_the_batch_values(project):
    made = project.materialise(at="2024-03-15T12:00")
    assert [one.group for one in made] == ["门店统计", "recent", "districts", "risk"]
    for one, key in zip(made, ["shop_id", "shop_id", "name", "shop_id"], strict=True):
        names = ["东城", "西城", "North Beach"] if key == "name" else list(range(1, 41))
        assert (one.rows, one.written) == (len(names), len(names))
        moments = ["2024-03-15T12:00"] * len(names)
        batch = project.get_historical_features({key: names, "cutoff": moments}, one.group)
        vectors = project.get_feature_vectors(names, one.group)
        for row, vector in zip(batch.to_pylist(), vectors, strict=True):
            wanted = {name: value for name, value in row.items() if name not in (key, "cutoff")}
            assert wanted == vector.values
            assert {name: type(value) for name, value in wanted.items()} == {
                name: type(value) for name, value in vector.values.items()
            }
            assert vector.event_at == one.cutoff
    values = project.get_feature_vector(7, "门店统计")
    assert isinstance(values["COUNT(visits, 30d)"], int)
    assert isinstance(values["LAST(visits.ok)"], bool)
    assert values["区域"] == "西"
    assert project.get_feature_vector("东城", "districts")["COUNT(shops)"] == 13


def test_older_never_replaces_newer(project):
    new = project.materialise("门店统计", at="2024-03-20")
    before = project.get_feature_vectors(range(1, 41), "门店统计")
    old = project.materialise("门店统计", at="2024-02-01")
    assert (new[0].written, old[0].written) == (40, 0)
    assert old[0].rows == 39
    assert project.get_feature_vectors(range(1, 41), "门店统计") == before


def test_a_changed_definition_replaces_all(project, regrouped):
    project.materialise(["门店统计", "districts"], at="2024-03-20")
    changed = regrouped("feature_groups: {门店统计: {entity: shops, features: [COUNT(visits)], ttl: 36500d}}")
    assert changed.feature_freshness()[0].behind
    (made,) = changed.materialise(at="2024-01-20")
    assert made.written == 38
    assert list(changed.get_feature_vector(1, "门店统计")) == ["COUNT(visits)"]
    # Shops that were not known then are gone with the old definition; and so is a group that the file forgot.
    assert changed.get_feature_vectors([39, 40], "门店统计") == [None, None]
    assert changed._services.online_store.freshness("districts", 0).vectors == 0


def test_another_description_is_another_version_of_the_same_vectors(project, regrouped):
    project.materialise("districts", at="2024-03-20")
    renamed = regrouped(
        "feature_groups: {districts: {entity: districts, description: new, features: "
        "[COUNT(shops), SUM(shops.seats), 'MEAN(shops.COUNT(visits))'], owner: ops-team}}"
    )
    (made,) = renamed.materialise(at="2024-02-20")
    assert made.written == 0
    assert len(renamed.feature_groups.versions("districts")) == 2


def test_freshness(project):
    assert [(f.group, f.vectors, f.data_version, f.behind) for f in project.feature_freshness()] == [
        (name, 0, None, True) for name in ("门店统计", "recent", "districts", "risk")
    ]
    project.materialise(at="2024-03-31")
    fresh = project.feature_freshness()
    assert [(f.vectors, f.expired, f.data_version, f.behind) for f in fresh] == [
        (n, 0, "v1.2", False) for n in (40, 40, 3, 40)
    ]
    assert all(f.age > 0 and f.newest_at == f.oldest_at for f in fresh)
    project.ingest("2024-04", [deliver(project.root / "delivered" / "2024-04", 4)])
    assert {(f.data_version, f.current_version, f.behind) for f in project.feature_freshness()} == {
        ("v1.2", "v1.3", True)
    }


def test_expired_vectors_are_absent_and_counted(regrouped):
    project = regrouped("feature_groups: {short: {entity: shops, features: [seats], ttl: 30d}}")
    project.materialise(at="2024-03-31")
    with pytest.raises(NotFoundError, match="has expired"):
        project.get_feature_vector(1, "short")
    (fresh,) = project.feature_freshness()
    assert (fresh.vectors, fresh.expired) == (0, 40)


def test_a_failing_group_leaves_what_was(project):
    project.materialise("门店统计", at="2024-03-20")
    before = project.get_feature_vectors(range(1, 41), "门店统计")
    with pytest.raises(InputError, match="was known at"):
        project.materialise(at="2020-01-01")
    assert project.get_feature_vectors(range(1, 41), "门店统计") == before
    assert len(project.feature_groups.materialisations("门店统计")) == 1


def test_a_write_that_breaks_off_is_made_good(project, monkeypatch):
    """The process dies between the batch and its record: the group counts as behind, and a second run ends the same."""
    groups = project.feature_groups
    with monkeypatch.context() as broken:
        broken.setattr(groups, "record", lambda made: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            project.materialise("districts", at="2024-03-20")
    assert next(f for f in project.feature_freshness() if f.group == "districts").behind
    project.materialise("districts", at="2024-03-20")
    assert not next(f for f in project.feature_freshness() if f.group == "districts").behind


def test_one_materialises_a_group_at_a_time(project):
    from concurrent.futures import ThreadPoolExecutor

    from holdfast.backend.adapters.clock import SystemClock
    from holdfast.backend.store import Leases

    with (
        Leases(project.feature_groups.store, SystemClock()).hold(["group:门店统计"], doing="materialise"),
        ThreadPoolExecutor() as other,
        pytest.raises(LockedError, match="feature group 门店统计 is held"),
    ):
        other.submit(project.materialise, "门店统计", at="2024-03-20").result()


def test_keys_are_read_as_their_type(project):
    project.materialise(["门店统计", "districts"], at="2024-03-20")
    import numpy as np

    wanted = project.get_feature_vector(7, "门店统计")
    for key in ("7", 7.0, np.int64(7)):
        assert project.get_feature_vector(key, "门店统计") == wanted
    for key in ("seven", None, 7.5, True, [7]):
        with pytest.raises(InputError, match="shop_id"):
            project.get_feature_vector(key, "门店统计")
    with pytest.raises(NotFoundError, match="materialise"):
        project.get_feature_vector(999, "门店统计")
    with pytest.raises(NotFoundError, match="门店统计"):
        project.get_feature_vector(7, "门店")


def test_an_entity_can_be_erased(project):
    project.materialise("门店统计", at="2024-03-20")
    assert project._services.online.erase("门店统计", ["7"]) == 1
    assert project.get_feature_vectors([6, 7], "门店统计")[1] is None


def test_the_same_over_redis(project, regrouped, redis_url):
    project.materialise(at="2024-03-15")
    from .conftest import GROUPS

    remote = regrouped(GROUPS + f"online: {{store: '{redis_url}'}}\n")
    remote.materialise(at="2024-03-15")
    for group, keys in (("门店统计", range(50)), ("districts", ["东城", "nowhere"]), ("risk", range(50))):
        ours, theirs = project.get_feature_vectors(keys, group), remote.get_feature_vectors(keys, group)
        assert [v and (v.values, v.event_at, v.origin) for v in ours] == [
            v and (v.values, v.event_at, v.origin) for v in theirs
        ]
    assert [f.vectors for f in remote.feature_freshness()] == [40, 40, 3, 40]
    assert redis_url not in repr(remote.settings)


def test_commands(project, capsys):
    from holdfast.frontend.cli import main

    def run(*words, status=0):
        try:
            main([*words, "-C", str(project.root)])
            ended = 0
        except SystemExit as end:
            ended = end.code or 0
        assert ended == status
        said = capsys.readouterr()
        return said.err if status else said.out

    assert "门店统计" in run("features", "groups", "list")
    assert [g["name"] for g in json.loads(run("features", "groups", "search", "卫生", "--json"))] == ["门店统计"]
    assert "40 vectors as of 2024-03-14T16:00:00Z" in run("features", "materialise", "门店统计", "--at", "2024-03-15")
    shown = json.loads(run("features", "vector", "门店统计", "7", "--json"))
    assert shown["values"] == project.get_feature_vector(7, "门店统计")
    assert shown["event_at"] == "2024-03-14T16:00:00Z"
    assert "MEAN(visits.score)" in run("features", "vector", "门店统计", "7")
    assert json.loads(run("features", "freshness", "--json"))[0]["vectors"] == 40
    assert "never materialised" in run("features", "freshness")
    told = json.loads(run("features", "groups", "show", "门店统计", "--json"))
    assert [one["rows"] for one in told["materialisations"]] == [40]
    assert "holdfast features materialise 门店统计" in run("features", "vector", "门店统计", "9999", status=1)
    # One of the groups was never materialised: nothing is exported.
    assert "never materialised" in run("features", "export-feast", str(project.root / "feast"), status=1)
    assert not (project.root / "feast").exists()
