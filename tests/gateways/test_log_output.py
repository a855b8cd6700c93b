"""What the processes log."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from architex.gateways.log_output import REQUEST_ID, JsonFormatter, TextFormatter, log_config
from architex.usecases.room_reading import RoomReading
from tests.api.client import Server, segment, settings_for, start_server, stop_server


def line_of(message: str, *args: Any, request: str = "") -> dict[str, Any]:
    """The JSON object of a record that is logged now, outside of requests unless `request`."""
    record = logging.LogRecord("architex.test", logging.WARNING, "", 1, message, args, None)
    token = REQUEST_ID.set(request)
    try:
        line = JsonFormatter().format(record)
    finally:
        REQUEST_ID.reset(token)
    assert "\n" not in line
    told: dict[str, Any] = json.loads(line)
    return told


def test_line_says_when_where_and_what() -> None:
    told = line_of("%s and\n%s", "tea", "Kännchen")
    assert told["message"] == "tea and\nKännchen"
    assert (told["level"], told["logger"]) == ("warning", "architex.test")
    assert told["time"].endswith("+00:00")
    assert "request" not in told


def test_line_names_the_request_that_is_being_answered() -> None:
    assert line_of("slow", request="2f")["request"] == "2f"


@pytest.mark.parametrize("odd", ["\n", "\r", "\x1b[2J", "\x00", "\x85", "\u2028", "\x9b31m"])
def test_nobody_writes_lines_of_their_own(odd: str) -> None:
    # What others say is logged here and there; it neither ends a line nor moves a cursor.
    record = logging.LogRecord(
        "architex.test", logging.WARNING, "", 1, "%s said %s", ("b.example", f"a{odd}b"), None
    )
    line = TextFormatter("%(levelname)s %(message)s").format(record)
    assert line.isprintable()
    assert line.startswith("WARNING b.example said a")


def test_traceback_has_its_lines() -> None:
    try:
        raise RuntimeError("a\nb")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    assert len(TextFormatter("%(message)s").format(record).splitlines()) > 3


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_configuration_is_one_that_logging_takes(log_format: str) -> None:
    handlers = log_config("info", log_format)["handlers"]
    assert handlers["stderr"]["formatter"] == log_format


def test_failure_is_logged_under_the_id_that_the_client_is_told(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server: Server = start_server(database_url, settings_for(tmp_path))
    seen: list[str] = []

    def fail(*args: Any, **more: Any) -> None:
        seen.append(REQUEST_ID.get())
        raise RuntimeError("a defect")

    alice = server.register()
    monkeypatch.setattr(RoomReading, "get_state", fail)
    answer = alice.get(f"/rooms/{segment('!x')}/state")
    stop_server(server)
    assert answer.status == 500
    assert f"under {seen[0]}" in answer.json["error"]
    assert any(f"[{seen[0]}]" in record.getMessage() for record in caplog.records)
