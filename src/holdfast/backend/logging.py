"""Log files: `[2024-01-15 10:30:45] [INFO] [train] message`, in local time, safe across processes.

HOLDFAST_LOG_LEVEL sets the level (default INFO), HOLDFAST_LOG_FORMAT=json writes one JSON object a line.
"""

import json
import logging
import os
import threading
from contextlib import nullcontext
from pathlib import Path

from holdfast.errors import ConfigError

__all__ = ["LOGGER", "start_logging"]

LOGGER = "holdfast"
"""Root of all loggers here: `logging.getLogger("holdfast.train")` shows as [train]."""

_BYTES = 10_000_000
_KEPT = 30
_changing = threading.Lock()
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _Line(logging.Formatter):
    """One record, one line: a message with a line break must not look like another record."""

    def __init__(self) -> None:
        super().__init__("[%(asctime)s] [%(levelname)s] [%(module_name)s] %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.module_name = _module(record)
        text = super().format(record).replace("\r", "\\r").replace("\n", "\\n")
        # A name from a file system may hold what UTF-8 has no bytes for.
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        data = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "module": _module(record),
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            data["traceback"] = self.formatException(record.exc_info)
        return json.dumps(data, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def _module(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{LOGGER}.").rsplit(".", 1)[-1]


def start_logging(folder: Path) -> None:
    """Write the log to `folder/holdfast.log` from now on; a second call of one process moves it there.

    The file is rotated at 10 MB and at midnight; 30 old files are kept, compressed.
    Raises ConfigError when an environment variable has no known value.
    """
    from concurrent_log_handler import ConcurrentTimedRotatingFileHandler

    level = os.environ.get("HOLDFAST_LOG_LEVEL", "INFO").upper()
    shape = os.environ.get("HOLDFAST_LOG_FORMAT", "text").lower()
    if level not in _LEVELS:
        raise ConfigError(f"HOLDFAST_LOG_LEVEL is {level!r}", hint=f"Use one of: {', '.join(_LEVELS)}")
    if shape not in {"text", "json"}:
        raise ConfigError(f"HOLDFAST_LOG_FORMAT is {shape!r}", hint="Use text or json.")
    folder.mkdir(parents=True, exist_ok=True)
    handler = ConcurrentTimedRotatingFileHandler(
        str(folder / "holdfast.log"),
        when="midnight",
        maxBytes=_BYTES,
        backupCount=_KEPT,
        encoding="utf-8",
        use_gzip=True,
        unicode_error_policy="replace",
        lock_file_directory=str(folder),
    )
    handler.setFormatter(_Json() if shape == "json" else _Line())
    logger = logging.getLogger(LOGGER)
    with _changing:
        # In one step, so that other threads always find one of ours; a program's own handlers stay.
        ours = [one for one in logger.handlers if isinstance(one, ConcurrentTimedRotatingFileHandler)]
        logger.handlers = [*(one for one in logger.handlers if one not in ours), handler]
        for old in ours:
            with old.lock or nullcontext():
                # Another thread may be about to write to it: that would open the closed file again.
                old.emit = handler.handle
                old.close()
        logger.setLevel(level)
