"""The manual's primitive of one's own, from the project file to a prediction."""

import re
from pathlib import Path

import pytest

import holdfast
from holdfast.backend.adapters.plugins import load_plugins
from holdfast.backend.serving.questions import Question
from holdfast.errors import ConfigError
from holdfast.frontend.demo import DELIVERIES, generate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "manual" / "features.md"


def example() -> str:
    found = re.search(r"```python\n(import numpy.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def test_the_example_trains_and_answers_and_a_change_is_noticed(tmp_path: Path) -> None:
    months = generate(tmp_path)
    (tmp_path / "gini.py").write_text(example(), encoding="utf-8")
    file = tmp_path / "holdfast.yaml"
    text = file.read_text(encoding="utf-8")
    kept = text.replace("features: {depth: 2, windows: [all, 90d, 365d]}", (
        "plugins: [gini]\n"
        "features: {depth: 2, windows: [all, 365d], primitives: [COUNT, MEAN, GINI, 'CAPPED(most=80)']}"
    ))  # fmt: skip
    kept = re.sub(r"split: .*", "split: {by: random}", kept)
    assert kept.count("gini") == 1
    assert "by: random" in kept
    file.write_text(kept, encoding="utf-8")
    with holdfast.open(tmp_path) as project:
        for month in months[:5]:
            project.ingest(month, [tmp_path / DELIVERIES / month])
        built = project.matrix("评分")
        names = built.matrix.feature_set.names
        assert {"GINI(inspections.score, 365d)", "MEAN(inspections.CAPPED(score, most=80))"} <= set(names)
        told = {one["name"]: one["description"] for one in project.definitions("评分")}
        assert told["GINI(inspections.score, 365d)"] == "Gini coefficient of score of inspections in the last 365d"
        project.train("评分")
        project.deploy("评分")
        place = len(built.matrix.cutoffs) - 1
        entity = built.matrix.entities[place].as_py()
        one = project.service.entities("评分", [Question(entity, None, {"inspector": "检查员15"})])
        assert one["predictions"]
    (tmp_path / "gini.py").write_text(example().replace("(n + 1) / n", "(n + 1) / n + 1"), encoding="utf-8")
    with holdfast.open(tmp_path) as project, pytest.raises(ConfigError, match="'GINI' was changed since"):
        project.definitions("评分")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("x = 1", "holds no primitive"),
        ("def (", "SyntaxError"),
        ("x = 1\ny = 1 / 0", "ZeroDivisionError"),
        ("from holdfast.primitives import Transform\nclass A(Transform):\n    name = 'mean'\n", "is no name"),
    ],
)
def test_a_module_that_cannot_be_used_is_said(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=wrong):
        load_plugins(tmp_path, ["mine"])


def test_a_module_that_is_not_there_and_a_name_given_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mine' cannot be read"):
        load_plugins(tmp_path, ["mine"])
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(example(), encoding="utf-8")
    with pytest.raises(ConfigError, match="two primitives 'GINI': of module one and of module two"):
        load_plugins(tmp_path, ["one", "two"])


def test_an_installed_package_offers_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offered_primitives.py").write_text(example(), encoding="utf-8")
    about = tmp_path / "offered-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[holdfast.primitives]\nall = offered_primitives\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [primitive.name for primitive in load_plugins(tmp_path, [])] == ["GINI", "CAPPED"]


def test_a_project_with_its_own_primitives_extends_matrices_compares_sets_and_keeps_its_groups(tmp_path: Path) -> None:
    months = generate(tmp_path)
    (tmp_path / "gini.py").write_text(example(), encoding="utf-8")
    file = tmp_path / "holdfast.yaml"
    asked = "plugins: [gini]\nfeatures: {depth: 2, windows: [all], primitives: [COUNT, MAX, GINI, 'CAPPED(most=80)']}"
    text = file.read_text(encoding="utf-8")
    text = text.replace("features: {depth: 2, windows: [all, 90d, 365d]}", asked)
    text = re.sub(r"split: .*", "split: {by: random}", text)
    file.write_text(text, encoding="utf-8")
    with holdfast.open(tmp_path) as project:
        for month in months[:3]:
            project.ingest(month, [tmp_path / DELIVERIES / month])
        first = project.matrix("评分")
        project.ingest(months[3], [tmp_path / DELIVERIES / months[3]])
        second = project.matrix("评分")
        assert 0 < second.reused <= len(first.matrix.cutoffs)
        assert project.matrix("评分", full=True).matrix.record.sha256 == second.matrix.record.sha256
        # No group has one of them: a pattern among the features that they are among too is none.
        assert [group.name for group in project.feature_groups.list()] == ["厨房", "邻里"]
    file.write_text(text.replace("most=80", "most=70"), encoding="utf-8")
    with holdfast.open(tmp_path) as project:
        before = project.features.get("评分").id
        project.synthesise("评分")
        words = [change.words for change in project.exchange.diff(before, project.features.get("评分").id)]
        stacked = "MAX(inspections.CAPPED(score, most=80)) became MAX(inspections.CAPPED(score, most=70)): "
        assert any(one.startswith(stacked) for one in words)
    file.write_text(text.replace('"COUNT(violations*)"', "GINI(inspections.score)"), encoding="utf-8")
    with holdfast.open(tmp_path) as project, pytest.raises(ConfigError, match="a primitive of your own"):
        project.feature_groups.list()
