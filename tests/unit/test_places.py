"""Where backups and remotes are, as the project file says it, and changes of that file as text."""

import pytest
import yaml

from holdfast.backend.pipelines.project_text import with_keys, without_keys
from holdfast.backend.project_file import parse
from holdfast.backend.wiring import open_place
from holdfast.errors import ConfigError

PROJECT = "project: p\ntables: {t: {files: t.csv}}\n"


def test_what_is_right_is_read() -> None:
    more = "backup: {to: ../b, schedule: '0 3 * * *', keep: 3}\nremotes: {origin: 's3://a/b?endpoint=http://h:1'}\n"
    settings = parse(PROJECT + more)
    assert (settings.backup.to, settings.backup.schedule, settings.backup.keep) == ("../b", "0 3 * * *", 3)
    assert settings.remotes == {"origin": "s3://a/b?endpoint=http://h:1"}
    assert parse(PROJECT).backup.to is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("backup: {to: 'ftp://a/b'}", "a place is a folder"),
        ("backup: {to: b, schedule: every day}", "is no cron line"),
        ("backup: {schedule: '0 3 * * *'}", "a schedule needs a place"),
        ("backup: {to: b, keep: 0}", "greater than or equal to 1"),
        ("remotes: {'a/b': x}", "pattern"),
        ("remotes: {origin: 's3://'}", "a place is a folder"),
    ],
)
def test_what_is_wrong_is_named(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        parse(PROJECT + line)
    assert told.value.where["line"] == 3


def test_a_place_of_another_kind_is_refused(tmp_path) -> None:
    assert open_place("sub/../other", tmp_path).url == str(tmp_path / "other")
    with pytest.raises(ConfigError, match="no place"):
        open_place("https://example.org/x", tmp_path)


TEXT = """\
# 开头
project: 餐厅   # name

storage: {database: sqlite}
# about the tables
tables:
  t:
    files: t.csv
backup:
  to: x   # there
  keep: 3
"""


def test_keys_go_and_the_rest_stays_as_it_was() -> None:
    assert without_keys(TEXT, ["backup", "remotes"]) == TEXT[: TEXT.index("backup:")]
    assert without_keys(TEXT, []) == TEXT
    left = without_keys(TEXT, ["storage", "backup"])
    assert yaml.safe_load(left) == {"project": "餐厅", "tables": {"t": {"files": "t.csv"}}}
    assert left.startswith("# 开头\nproject: 餐厅   # name\n")


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip("\n"), "{project: 餐厅, storage: {blobs: local}}", "project: 餐厅"])
def test_keys_are_set_anew(text: str) -> None:
    wanted = {**yaml.safe_load(text), "storage": {"database": "postgresql://u@h/餐", "blobs": "local"}}
    again = with_keys(text, {"storage": wanted["storage"]})
    assert yaml.safe_load(again) == wanted
    assert yaml.safe_load(with_keys(again, {"storage": wanted["storage"]})) == wanted
