"""One table of two servers' results: rates, latencies, CPU per operation, memory, and ratios.

    bench/table.py OURS.jsonl [THEIRS.jsonl]

CPU per operation is everything a server burns, its database included. Medians over several runs.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Record = Mapping[str, Any]
Key = tuple[str, str]

FIELDS: Final = ("rate", "p50_ms", "p99_ms", "cpu_ms", "pss_mb", "rss_peak_mb")


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
    if includes_database and record.get("pss_mb") is not None:
        figures["pss_mb"] = record["pss_mb"] - record.get("pg_pss_mb", 0.0)
    return figures


def format_table(ours: Mapping[Key, Mapping[str, float]], theirs: Mapping[Key, Any]) -> str:
    """The table in Markdown. Ratios say how many times better ours is."""
    lines = [
        "| scenario | per s | p50 ms | p99 ms | CPU ms/op | theirs per s | p50 ms | CPU ms/op"
        " | rate x | CPU x |",
        "|---|" + "---:|" * 9,
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
            *(_number(figures.get(name)) for name in ("rate", "p50_ms", "p99_ms", "cpu_ms")),
            *(_number(peer.get(name)) for name in ("rate", "p50_ms", "cpu_ms")),
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


if __name__ == "__main__":
    results = [read_results(Path(argument)) for argument in sys.argv[1:]]
    sys.stdout.write(format_table(results[0], results[1] if len(results) > 1 else {}))
