"""One table of two servers' results: rates, latencies, CPU per operation, memory, and ratios.

    bench/table.py [--into PAGE.md] OURS.jsonl [THEIRS.jsonl]

CPU per operation is everything a server burns, its database included; of `fanout` an operation is
the delivery of a message to one client. Memory is that of all its processes without the database,
after the scenario. Medians over several runs. With --into, the table replaces the one between
the marks in a page, with the date and the commit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Record = Mapping[str, Any]
Key = tuple[str, str]

FIELDS: Final = ("rate", "p50_ms", "p99_ms", "pss_mb")
_COLUMNS: Final = ("rate", "p50_ms", "p99_ms", "cpu_ms", "pss_mb")
_BEGIN: Final = "<!-- bench: begin; `make bench` writes what follows -->"
_END: Final = "<!-- bench: end -->"


def read_results(path: Path) -> dict[Key, dict[str, float]]:
    """Medians by scenario and variant."""
    runs: dict[Key, list[Record]] = defaultdict(list)
    for line in path.read_text().splitlines():
        record = json.loads(line)
        runs[record["scenario"], record["variant"]].append(record)
    return {key: _medians(records) for key, records in runs.items()}


def _medians(records: Iterable[Record]) -> dict[str, float]:
    numbers: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in _figures(record).items():
            if isinstance(value, int | float):
                numbers[name].append(value)
    return {name: statistics.median(values) for name, values in numbers.items()}


def _figures(record: Record) -> dict[str, Any]:
    """The figures of one run, CPU and memory made comparable."""
    figures = {name: record.get(name) for name in (*FIELDS, "errors")}
    # PostgreSQL is a descendant of `architex serve` and counted with it; Synapse's is not.
    includes_database = record["label"] == "architex"
    server, database = record.get("srv_cpu_ms_op"), record.get("pg_cpu_ms_op")
    if server is not None:
        figures["cpu_ms"] = server if includes_database else server + (database or 0.0)
    clients = record.get("clients", 0) if record["scenario"] == "fanout" else 0
    if clients and figures["cpu_ms"] is not None:
        figures["cpu_ms"] /= clients
        figures["rate"] = record["deliveries_per_s"]
    if includes_database and record.get("pss_mb") is not None:
        figures["pss_mb"] = record["pss_mb"] - record.get("pg_pss_mb", 0.0)
    return figures


def format_table(ours: Mapping[Key, Mapping[str, float]], theirs: Mapping[Key, Any]) -> str:
    """The table in Markdown. Ratios say how many times better ours is."""
    lines = [
        "| scenario | per s | p50 ms | p99 ms | CPU ms/op | MB | theirs per s | p50 ms | p99 ms"
        " | CPU ms/op | MB | rate x | CPU x |",
        "|---|" + "---:|" * 12,
    ]
    memory = []
    for key, figures in ours.items():
        peer = theirs.get(key, {})
        if key[0] == "idle":
            memory.append(
                f"| memory at {key[1]}, without the database, MB (PSS) |"
                f" {_number(figures.get('pss_mb'))} | {_number(peer.get('pss_mb'))} |"
                f" {_ratio(peer.get('pss_mb'), figures.get('pss_mb'))} |"
            )
            continue
        cells = [
            " ".join(key) + (" **(errors)**" if figures.get("errors") else ""),
            *(_number(figures.get(name)) for name in _COLUMNS),
            *(_number(peer.get(name)) for name in _COLUMNS),
            _ratio(figures.get("rate"), peer.get("rate")),
            _ratio(peer.get("cpu_ms"), figures.get("cpu_ms")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if memory:
        lines += ["", "| memory | ours | theirs | x |", "|---|---:|---:|---:|", *memory]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _ratio(better: float | None, worse: float | None) -> str:
    return f"{better / worse:.1f}" if better and worse else ""


def put_into(page: Path, table: str) -> None:
    """Replace the table between the marks of a page."""
    git = ["git", "-C", str(page.parent), "log", "-1", "--format=%h, %cs"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()  # noqa: S603
    head, _, rest = page.read_text().partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    if not tail:
        sys.exit(f"{page} has no marks for the table.")
    told = f"{_BEGIN}\n\nCommit {commit}.\n\n{table}\n{_END}"
    page.write_text(head + told + tail)


def main() -> None:
    """Print the table, and put it where it is kept."""
    arguments = sys.argv[1:]
    page = None
    if arguments[:1] == ["--into"]:
        page, arguments = Path(arguments[1]), arguments[2:]
    results = [read_results(Path(argument)) for argument in arguments]
    table = format_table(results[0], results[1] if len(results) > 1 else {})
    sys.stdout.write(table)
    if page is not None:
        put_into(page, table)


if __name__ == "__main__":
    main()
