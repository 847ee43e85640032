"""Log files: their shape, that several processes can share one, that they are rotated, and that nothing is lost."""

import gc
import gzip
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path

import pytest
from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

from holdfast.backend import logging as ours
from holdfast.backend.logging import LOGGER, start_logging
from holdfast.errors import ConfigError


def put_away() -> None:
    """Close the log's file for good: a thread of another test may be about to write, which would open it again."""
    logger = logging.getLogger(LOGGER)
    # Only ours: pytest hangs its own, which all later tests share, on a logger that does not propagate.
    for handler in [one for one in logger.handlers if isinstance(one, ConcurrentTimedRotatingFileHandler)]:
        logger.removeHandler(handler)
        with handler.lock or nullcontext():
            handler.emit = lambda record: None  # type: ignore[method-assign]
            handler.close()


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    logger = logging.getLogger(LOGGER)
    handlers, level = list(logger.handlers), logger.level
    logger.handlers = []
    yield
    put_away()
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(level)


def text(folder: Path) -> str:
    return (folder / "holdfast.log").read_text(encoding="utf-8")


def test_a_line_has_time_level_module_and_message(tmp_path: Path) -> None:
    start_logging(tmp_path)
    logging.getLogger("holdfast.backend.pipelines.train").info("训练 %s", "高风险")
    logging.getLogger("holdfast.train").debug("not in production")
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \[INFO\] \[train\] 训练 高风险\n", text(tmp_path))


def test_a_message_cannot_pretend_to_be_another_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_logging(tmp_path)
    # Only to the file: what pytest captures goes through channels that take no such text.
    with monkeypatch.context() as alone:
        alone.setattr(logging.getLogger("holdfast"), "propagate", False)
        logging.getLogger(LOGGER).warning("a\n[2024-01-01 00:00:00] [INFO] [train] b \udcff")
    assert len(text(tmp_path).splitlines()) == 1
    assert r"\udcff" in text(tmp_path)


def test_level_and_shape_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_LOG_LEVEL", "debug")
    monkeypatch.setenv("HOLDFAST_LOG_FORMAT", "json")
    start_logging(tmp_path)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("holdfast.serve").exception("it failed")
    record = json.loads(text(tmp_path))
    assert (record["level"], record["module"], record["message"]) == ("ERROR", "serve", "it failed")
    assert "ValueError: why" in record["traceback"]


@pytest.mark.parametrize("name", ["HOLDFAST_LOG_LEVEL", "HOLDFAST_LOG_FORMAT"])
def test_an_unknown_value_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "loud")
    with pytest.raises(ConfigError, match=name):
        start_logging(tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_starting_again_moves_the_log(tmp_path: Path) -> None:
    start_logging(tmp_path / "a")
    with closing(logging.StreamHandler(io.StringIO())) as own:
        logging.getLogger(LOGGER).addHandler(own)
        start_logging(tmp_path / "b")
        logging.getLogger(LOGGER).info("once")
        logging.getLogger(LOGGER).removeHandler(own)
        assert own.stream.getvalue() == "once\n", "a program's own handler stays"
    assert not (tmp_path / "a" / "holdfast.log").exists() or text(tmp_path / "a") == ""
    assert text(tmp_path / "b").count("once") == 1


def test_threads_that_move_the_log_lose_no_line_and_leave_no_file_open(tmp_path: Path) -> None:
    start_logging(tmp_path / "0")

    def log_and_move(number: int) -> None:
        for turn in range(30):
            logging.getLogger(LOGGER).info("line %d %d", number, turn)
            if turn % 5 == number:
                start_logging(tmp_path / f"{number} {turn}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(log_and_move, range(3)))
    put_away()
    gc.collect()  # a file that was left open is told here
    lines = [line for folder in tmp_path.iterdir() for line in text(folder).splitlines() if "line" in line]
    assert len(lines) == len({line.partition("line")[2] for line in lines}) == 90


def test_processes_share_a_log_and_rotation_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import logging, pathlib, sys\n"
        "from holdfast.backend import logging as ours\n"
        "ours._BYTES = 20_000\n"
        "ours.start_logging(pathlib.Path(sys.argv[1]))\n"
        "for n in range(200): logging.getLogger('holdfast.w').info('worker %s line %s 填充填充填充', sys.argv[2], n)\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)]) for n in range(4)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0, 0]
    rotated = sorted(tmp_path.glob("holdfast.log.*"))
    assert rotated, "nothing was rotated"
    lines = text(tmp_path).splitlines()
    for path in rotated:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines += data.decode("utf-8").splitlines()
    seen = {match[0] for line in lines if (match := re.search(r"worker \d line \d+", line))}
    assert len(seen) == len(lines) == 800


def test_files_are_rotated_at_ten_megabytes() -> None:
    assert ours._BYTES == 10_000_000
