"""What the processes write to standard error: lines of text, or one JSON object per line."""

from __future__ import annotations

import json
import logging
import logging.config
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

REQUEST_ID: Final[ContextVar[str]] = ContextVar("REQUEST_ID", default="")
"""The ID of the request that is being answered, unique within its process; empty for none."""


class TextFormatter(logging.Formatter):
    """One line per record, and further ones for a traceback only.

    Messages quote what others have said: what is not printable is written as an escape, so that
    nobody makes up lines or plays tricks with the operator's terminal.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = super().formatMessage(record)
        if line.isprintable():
            return line
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, process, message and any traceback.

    What is logged while a request is answered has the request's ID, too.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        request_id = REQUEST_ID.get()
        if request_id:
            line["request"] = request_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_config(level: str, log_format: str) -> dict[str, Any]:
    """A configuration for logging.config.dictConfig, also for gunicorn's `logconfig_dict`.

    Args:
        level: debug, info, warning or error.
        log_format: text or json.
    """
    text = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"
    # Libraries log at info what is of interest to their authors.
    library_level = "DEBUG" if level == "debug" else "WARNING"
    quiet = {"level": library_level}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"()": f"{__name__}.TextFormatter", "fmt": text},
            "json": {"()": f"{__name__}.JsonFormatter"},
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": log_format,
            }
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "psycopg": quiet,
            "psycopg.pool": {"level": "ERROR"},
            "eventsourcing": quiet,
            "urllib3": quiet,
            "gunicorn.error": {"level": "INFO" if level == "debug" else "WARNING"},
            "gunicorn.access": {"level": "ERROR"},
        },
    }


def configure_logging(level: str, log_format: str) -> None:
    """Set up this process's logging; see `log_config`."""
    logging.config.dictConfig(log_config(level, log_format))
