"""The project file: what is right is frozen, what is wrong is named by line, key and the nearest right word."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from holdfast.backend.project_file import load, parse
from holdfast.core.timeline import DAY, Known
from holdfast.errors import ConfigError

GOOD = """\
project: 旧金山
timezone: America/Los_Angeles
tables:
  businesses: {files: businesses.csv, key: business_id, delivery: full, columns: {postal_code: category}}
  inspections:
    files: [inspections.xlsx]
    key: [business_id, date, type]
    time: date
    known: event + 3d
    links: {business_id: businesses}
targets:
  risk:
    entity: businesses
    from: inspections
    cutoff: date
    task: multilabel
    labels: {高风险: "1 = 1"}
split: {by: time, train: "< 2016-01-01", validate: "< 2016-07-01", test: "< 2017-01-01"}
"""


def test_what_is_right_is_read() -> None:
    settings = parse(GOOD)
    assert settings.tables["businesses"].known_rule == Known("period_end")
    assert settings.tables["inspections"].known_rule == Known("event", delay=3 * DAY)
    assert settings.targets["risk"].labels == {"高风险": "1 = 1"}
    assert settings.split.parts == (0.70, 0.15, 0.15)
    assert settings.serving.host == "127.0.0.1"


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse(GOOD).project = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("before", "after", "line", "key", "message"),
    [
        ("files: [inspections.xlsx]", "file: [inspections.xlsx]", 6, "tables.inspections.file",
         "unknown key 'file'; did you mean 'files'"),
        ("{business_id: businesses}", "{business_id: busineses}", 10, "tables.inspections.links.business_id",
         "no table 'busineses'; did you mean 'businesses'"),
        ("America/Los_Angeles", "Mars/Olympus", 2, "timezone", "no time zone 'Mars/Olympus'"),
        ("task: multilabel", "task: multi", 16, "targets.risk.task", "'multilabel', 'binary'.*got 'multi'"),
        ("task: multilabel", "task: binary", 12, "targets.risk", "takes one `label`"),
        ("delivery: full", "delivery: ful", 4, "tables.businesses.delivery", "'increment' or 'full'"),
        ("key: business_id, ", "", 4, "tables.businesses", "needs a `key`"),
        ("known: event + 3d", "known: event + 3y", 9, "tables.inspections.known", "'3y' is not a duration"),
        ("    time: date\n", "", 5, "tables.inspections", "`known: event` needs `time`"),
        ("entity: businesses", "entity: busines", 13, "targets.risk.entity", "did you mean 'businesses'"),
        ("postal_code: category", "postal_code: {typ: category}", 4, "tables.businesses.columns.postal_code.typ",
         "did you mean 'type'"),
        ("postal_code: category", "postal_code: kategory", 4, "tables.businesses.columns.postal_code", "'category'"),
        ("project: 旧金山\n", "", 1, "project", "key 'project' is missing"),
        (', test: "< 2017-01-01"', "", 18, "split", "all of `train`, `validate` and `test`"),
        ("by: time", "by: random", 18, "split", "go with `by: time`"),
        ('labels: {高风险: "1 = 1"}', "seed: 1", 17, "targets.risk.seed", "unknown key 'seed'"),
        ("timezone:", "project:", 2, None, "key 'project' is given twice"),
        ("project: 旧金山", "project: [旧金山", 2, None, "not valid YAML"),
        ("project: 旧金山", "project: 旧金山\nfeatures: {windows: [90]}", 2, "features.windows.0", "string"),
        ("project: 旧金山", "project: 旧金山\nfeatures: {windows: [90x]}", 2, "features.windows", "not a duration"),
        ("project: 旧金山", "project: 旧金山\nserving: {port: 70000}", 2, "serving.port", "less than or equal"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(before: str, after: str, line: int, key: str | None, message: str) -> None:
    assert before in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        parse(GOOD.replace(before, after, 1), "holdfast.yaml")
    assert caught.value.where["file"] == "holdfast.yaml"
    assert caught.value.where["line"] == line
    assert caught.value.where.get("key") == key


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "42\n"])
def test_what_is_no_mapping_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="empty or not a mapping"):
        parse(text)


def test_a_folder_without_a_project_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holdfast init"):
        load(tmp_path)


def test_a_file_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holdfast.yaml").write_bytes("project: 旧金山".encode("gb18030"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


DERIVED = """\
project: 商店
tables:
  lines: {files: lines.csv, time: at, columns: {国: category}}
  顾客: {from: lines, key: 顾客号, columns: [国]}
  invoices: {from: lines, key: 单, time: at, links: {顾客号: 顾客}}
targets:
  again: {entity: 顾客, every: month, horizon: 30d, label: "true"}
  each: {entity: 顾客, from: lines, cutoff: at, label: "true"}
"""


def test_derived_tables_are_linked_to_by_what_they_come_from() -> None:
    settings = parse(DERIVED)
    assert settings.links_of("lines") == {"顾客号": "顾客", "单": "invoices"}
    assert settings.tables["invoices"].names == ("单", "at", "顾客号")
    assert settings.targets["again"].from_ == "顾客"


@pytest.mark.parametrize(
    ("before", "after", "line", "key", "message"),
    [
        ("{files: lines.csv, ", "{", 3, "tables.lines", "key 'files' is missing"),
        ("{from: lines, key: 顾客号", "{from: line, key: 顾客号", 4, "tables.顾客.from", "did you mean 'lines'"),
        ("key: 顾客号", "key: [顾客号, at]", 4, "tables.顾客", "needs a `key` of one column"),
        ("key: 顾客号, ", "", 4, "tables.顾客", "needs a `key` of one column"),
        ("columns: [国]", "columns: {国: text}", 4, "tables.顾客", "declare '国' under 'lines'"),
        ("columns: [国]", "known: event", 4, "tables.顾客", "has no 'known'"),
        ("columns: [国]", "delivery: full", 4, "tables.顾客", "has no 'delivery'"),
        ("columns: [国]", "files: c.csv", 4, "tables.顾客", "has no 'files'"),
        ("key: 单", "key: 顾客号", 5, "tables.invoices.key", "links to '顾客' already"),
        ("time: at, columns", "time: at, links: {单: 顾客}, columns", 5, "tables.invoices.key",
         "links to '顾客' already"),
        ("files: lines.csv", "files: lines.csv, key: 单", 5, "tables.invoices.key", "is the key of 'lines' itself"),
        ("key: 单, time: at", "key: 单, time: 国", 5, "tables.invoices.time", "is that of 'lines', which is 'at'"),
        ("{files: lines.csv, time: at, columns: {国: category}}", "{from: 顾客, key: 单}", 3, "tables.lines.from",
         "derives from itself: lines from 顾客 from lines"),
    ],
)  # fmt: skip
def test_what_is_wrong_of_a_derived_table_is_named(before: str, after: str, line: int, key: str, message: str) -> None:
    assert before in DERIVED
    with pytest.raises(ConfigError, match=message) as caught:
        parse(DERIVED.replace(before, after, 1))
    assert (caught.value.where["line"], caught.value.where["key"]) == (line, key)


def test_plugins_seeds_and_conditions_of_any_type_are_read() -> None:
    text = (
        "project: p\nplugins: gini\ntables: {t: {files: t.csv}}\n"
        "features: {conditions: {t.a: [true, 3, 1.5, 风险]}, seeds: {t: 'ABOVE(x, value=1)'}, windowed: [TREND]}\n"
    )
    found = parse(text)
    assert found.plugins == ("gini",)
    assert found.features.conditions == {"t.a": (True, 3, 1.5, "风险")}
    assert [type(value) for value in found.features.conditions["t.a"]] == [bool, int, float, str]  # type: ignore[index]
    assert found.features.seeds == {"t": ("ABOVE(x, value=1)",)}
    assert found.features.conditional == ("COUNT", "TIME_SINCE_LAST")


@pytest.mark.parametrize(
    ("serving", "key", "message"),
    [
        ("{timeout: 5 minutes}", "serving.timeout", "'5 minutes' is not a duration"),
        ("{tls: {certificate: c.pem}}", "serving.tls.key", "key 'key' is missing"),
        ("{tls: {certificat: c.pem, key: k}}", "serving.tls.certificat", "did you mean 'certificate'"),
        ("{tls: {certificate: '', key: k}}", "serving.tls.certificate", "at least 1 character"),
    ],
)
def test_what_is_wrong_with_serving_is_placed(serving: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(f"{GOOD}serving: {serving}\n")
    assert caught.value.where["key"] == key
    assert parse(f"{GOOD}serving: {{timeout: 5min}}\n").serving.timeout_seconds == 300.0
