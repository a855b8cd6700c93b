"""Looks our dependencies up in the list of known vulnerabilities: `make check` does it.

What cannot be looked up (no network, a registry that does not answer) is said and fails nothing.

Run: `python -m tests.audit.run`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.audit.dependencies import list_dependencies

TIMEOUT_S: Final = 120


def main() -> int:
    """Say what is known; 1 when something has a vulnerability that is mended elsewhere."""
    pinned = [f"{name}=={found.version}" for name, found in list_dependencies().items()]
    told, trouble = look_up(pinned)
    for line in describe(told):
        print(line)
    skipped = [entry["name"] for entry in told if "skip_reason" in entry]
    if told and len(skipped) == len(told):
        trouble = told[0]["skip_reason"]
    if trouble:
        print(f"The dependencies were NOT looked up for known vulnerabilities: {trouble}")
        return 0
    if skipped:
        print(f"Not looked up: {', '.join(skipped)}")
    bad = has_vulnerabilities(told)
    if not bad:
        print(f"{len(told) - len(skipped)} dependencies have no known vulnerabilities.")
    return int(bad)


def look_up(pinned: list[str]) -> tuple[list[dict[str, Any]], str]:
    """What is known about packages, and why nothing is (empty when something is)."""
    with tempfile.TemporaryDirectory() as directory:
        requirements, output = Path(directory, "requirements.txt"), Path(directory, "told.json")
        requirements.write_text("\n".join(pinned) + "\n")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements)]
        command += ["--no-deps", "--disable-pip", "--progress-spinner", "off"]
        command += ["--timeout", "15", "--format", "json", "--output", str(output)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            return json.loads(output.read_text())["dependencies"], ""
        except subprocess.TimeoutExpired:
            return [], f"no answer within {TIMEOUT_S} seconds"
        except (OSError, ValueError, KeyError):
            said = [line for line in done.stderr.splitlines() if line.strip()]
            return [], said[-1][:300] if said else f"pip-audit ended with {done.returncode}"


def has_vulnerabilities(told: list[dict[str, Any]]) -> bool:
    """Whether any package has a known vulnerability."""
    return any(entry.get("vulns") for entry in told)


def describe(told: list[dict[str, Any]]) -> list[str]:
    """One line per vulnerability."""
    return [
        f"{entry['name']} {entry['version']}: {found['id']}"
        f" ({', '.join(found['aliases']) or 'no other name'}),"
        f" mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for entry in told
        for found in entry.get("vulns", ())
    ]


if __name__ == "__main__":
    sys.exit(main())
