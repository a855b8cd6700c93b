"""Plots of how cost grows, as SVG: with waiting clients, rooms of an account, size of a room.

    bench/plots.py DIRECTORY OURS.jsonl [THEIRS.jsonl]

Reads what `bench/run.sh` wrote, and beside it what two scripts of bench.micro left there
($BENCH_JSON): `rooms.jsonl` by room_size, `accounts.jsonl` by first_sync. Both axes are
logarithmic: a straight line upwards is growth, a flat one is none.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))
from table import Key, read_results

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 130, 40, 46
COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#7c3aed")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """One picture.

    Attributes:
        lines: legend → points.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Points]


def draw(plot: Plot) -> str:
    """The picture, as SVG."""
    points = [point for line in plot.lines.values() for point in line]
    x_low, x_high = _bounds([x for x, _ in points])
    y_low, y_high = _bounds([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' font-family="sans-serif" font-size="12" role="img">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14" font-weight="bold">{escape(plot.title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(plot.x_label)}</text>",
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot.y_label)}</text>",
    ]
    for power in range(math.ceil(x_low), math.floor(x_high) + 1):
        x, y = place(10**power, 10**y_low)
        parts.append(f'<path d="M{x:.1f} {y:.1f}V{TOP}" stroke="#e5e7eb"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{10**power:,}</text>'
        )
    for power in range(math.ceil(y_low), math.floor(y_high) + 1):
        x, y = place(10**x_low, 10**power)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(
            f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for (legend, line), colour in zip(plot.lines.items(), COLOURS, strict=False):
        places = [place(*point) for point in sorted(line)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places
        ]
        x, y = places[-1]
        parts.append(
            f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" fill="{colour}">{escape(legend)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Powers of ten around the values, with some air."""
    low, high = math.log10(min(values)), math.log10(max(values))
    if high - low < 1:
        low, high = math.floor(low), math.ceil(high + 0.001)
    return low - 0.08, high + 0.08


def cost_by(
    results: Mapping[Key, Mapping[str, float]], scenario: str, pattern: str
) -> list[tuple[float, float]]:
    """CPU by the number in the names of variants."""
    return [
        (float(found[1]), figures["cpu_ms"])
        for (of, variant), figures in results.items()
        if of == scenario and (found := re.fullmatch(pattern, variant)) and "cpu_ms" in figures
    ]


def read_accounts(path: Path) -> Points:
    """What bench.micro.first_sync said: CPU by rooms."""
    if not path.exists():
        return []
    told: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return [(row[0], row[2] + row[3]) for row in told["rows"]]


def read_room_sizes(path: Path) -> dict[str, Points]:
    """What bench.micro.room_size said: CPU by members."""
    if not path.exists():
        return {}
    told: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    lines: dict[str, list[tuple[float, float]]] = {"send": [], "receive": [], "resolve 50": []}
    for members, send, send_pg, _, receive, receive_pg, _, resolve, resolve_pg, *_ in told["rows"]:
        lines["send"].append((members, (send + send_pg) / 1000))
        lines["receive"].append((members, (receive + receive_pg) / 1000))
        lines["resolve 50"].append((members, resolve + resolve_pg))
    return dict(lines)


def main() -> None:
    """Write the pictures for which there are figures."""
    directory, *paths = [Path(argument) for argument in sys.argv[1:]]
    directory.mkdir(parents=True, exist_ok=True)
    found = {path.stem.capitalize(): read_results(path) for path in paths}
    clients = {who: cost_by(of, "fanout", r"n(\d+)_r5") for who, of in found.items()}
    rooms = {who: cost_by(of, "sync", r"initial_(\d+)_rooms_full") for who, of in found.items()}
    accounts = read_accounts(paths[0].with_name("accounts.jsonl"))
    if accounts:
        rooms[paths[0].stem.capitalize()] = accounts
    plots = [
        Plot(
            "waiting-clients",
            "A message to waiting clients",
            "clients in the room",
            "CPU ms for each",
            clients,
        ),
        Plot("account-size", "The first sync of an account", "rooms", "CPU ms", rooms),
        Plot(
            "room-size",
            "Work in a room",
            "members",
            "CPU ms",
            read_room_sizes(paths[0].with_name("rooms.jsonl")),
        ),
    ]
    for plot in plots:
        lines = {legend: points for legend, points in plot.lines.items() if points}
        if lines:
            shown = Plot(plot.name, plot.title, plot.x_label, plot.y_label, lines)
            (directory / f"{plot.name}.svg").write_text(draw(shown))


if __name__ == "__main__":
    main()
