"""Lines over time as an SVG file that can be read without any program of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

Point = tuple[float, float]

_WIDTH: Final = 720
_HEIGHT: Final = 300
_LEFT: Final = 70
_RIGHT: Final = 190
_TOP: Final = 34
_BOTTOM: Final = 34
_COLOURS: Final = (
    *("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2"),
    *("#17becf", "#bcbd22", "#7f7f7f"),
)


def write_plot(path: Path, title: str, lines: Mapping[str, Sequence[Point]]) -> None:
    """Write a plot of named lines, minutes to the right and from zero up."""
    end = max((t for points in lines.values() for t, _ in points), default=1.0) or 1.0
    top = max((v for points in lines.values() for _, v in points), default=1.0) or 1.0
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(t: float, value: float) -> str:
        x = _LEFT + inner_width * t / end
        y = _TOP + inner_height * (1 - value / top)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for step in range(5):
        value = top * step / 4
        left, y = place(0, value).split(",")
        right = place(end, value).split(",")[0]
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end">{value:,.4g}</text>')
        x, minutes = place(end * step / 4, 0).split(",")[0], end * step / 240
        parts.append(
            f'<text x="{x}" y="{_HEIGHT - 12}" text-anchor="middle">{minutes:.1f} min</text>'
        )
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path_points = " ".join(place(*point) for point in points)
        parts.append(
            f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        y_name = _TOP + 12 + 15 * number
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{y_name}" fill="{colour}">{escape(name)}</text>'
        )
    path.write_text("\n".join([*parts, "</svg>", ""]))


def slope_per_hour(points: Sequence[Point]) -> float:
    """How much a line rises in an hour, by least squares; times are seconds."""
    if len(points) < 2:
        return 0.0
    mean_t = sum(t for t, _ in points) / len(points)
    mean_v = sum(v for _, v in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    if not spread:
        return 0.0
    return 3600 * sum((t - mean_t) * (v - mean_v) for t, v in points) / spread
