"""The look-up of known vulnerabilities says what it found, and what it could not find out."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.audit import run

CLEAN: dict[str, Any] = {"name": "tea", "version": "1.0", "vulns": []}
BAD: dict[str, Any] = {
    "name": "pot",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"]}],
}


def audited(monkeypatch: pytest.MonkeyPatch, told: list[dict[str, Any]], trouble: str = "") -> int:
    monkeypatch.setattr(run, "look_up", lambda pinned: (told, trouble))
    return run.main()


def test_vulnerability_fails_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(monkeypatch, [CLEAN, BAD]) == 1
    assert "pot 2.0: PYSEC-1 (CVE-1), mended in 2.1" in capsys.readouterr().out
    assert audited(monkeypatch, [CLEAN]) == 0
    assert "1 dependencies have no known" in capsys.readouterr().out


def test_registry_that_does_not_answer_fails_nothing_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited(monkeypatch, [], "no route to host") == 0
    assert "NOT looked up for known vulnerabilities: no route" in capsys.readouterr().out


def test_packages_that_the_registry_does_not_know_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = {"name": "cup", "skip_reason": "not found"}
    assert audited(monkeypatch, [unknown]) == 0
    assert "NOT looked up for known vulnerabilities: not found" in capsys.readouterr().out
    assert audited(monkeypatch, [unknown, CLEAN]) == 0
    assert "Not looked up: cup" in capsys.readouterr().out


def test_reason_is_the_last_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\n\nno route\n")

    def wait(*args: Any, **more: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("pip-audit", 120)

    monkeypatch.setattr(subprocess, "run", fail)
    assert run.look_up(["tea==1.0"]) == ([], "no route")
    monkeypatch.setattr(subprocess, "run", wait)
    assert run.look_up(["tea==1.0"])[0] == []
    assert "120 seconds" in run.look_up(["tea==1.0"])[1]
