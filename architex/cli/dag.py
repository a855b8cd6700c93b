"""`architex room dag`: a picture of a room's event graph, with states and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import click

from architex.cli.common import config_option
from architex.cli.inspecting import VERDICTS, described, opened_room
from architex.cli.tables import shown
from architex.projections.room_graph import GraphEvent, find_event, list_window
from architex.storage.event_log import RoomHead

ROW, LANE, MARGIN, RADIUS = 26, 22, 24, 6
WIDTH_OF_TEXT = 1100
COLOURS = ("#2e7d32", "#ef6c00", "#c62828")

_STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #222 }
.title { font-weight: bold } .state { font-weight: bold } .faint { fill: #888 }
.prev { fill: none; stroke: #607d8b; stroke-width: 1.6 }
.auth { fill: none; stroke: #9e9e9e; stroke-width: 1; stroke-dasharray: 2 3 }
.around { fill: #fff3c4 } .now { fill: none; stroke: #1565c0; stroke-width: 2 }
svg { background: #fff }"""


@click.command()
@config_option
@click.argument("room")
@click.option("--around", metavar="EVENT", help="The event in the middle. Default: the newest.")
@click.option(
    "--count", type=click.IntRange(1, 2000), default=40, show_default=True, help="So many events."
)
@click.option("--auth", "with_auth", is_flag=True, help="Draw which events allow which, dotted.")
@click.option(
    "-o",
    "output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the SVG there. Default: standard output.",
)
def dag(
    config_file: str | None,
    room: str,
    around: str | None,
    count: int,
    with_auth: bool,
    output: Path | None,
) -> None:
    """Draw the event graph of ROOM around EVENT as an SVG.

    The oldest event is at the top; each hangs from those it follows. Squares are state events,
    ringed ones are part of the current state; green is accepted, orange soft-failed, red rejected.
    """
    with opened_room(config_file, room) as (database, head), database.snapshot() as connection:
        middle = head.version
        if around is not None:
            event = find_event(connection, head, around)
            if event is None:
                raise click.ClickException(f"The room has no event {around}.")
            middle = event.version
        first = max(1, min(middle - count // 2, head.version - count + 1))
        events = list_window(connection, head, first, first + count - 1)
    picture = draw(head, events, around, with_auth=with_auth)
    if output is None:
        click.echo(picture)
    else:
        output.write_text(picture, encoding="utf-8")
        click.echo(f"{output}: {len(events)} of {head.version} events", err=True)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where an event is drawn."""

    row: int
    lane: int

    @property
    def x(self) -> int:
        """Pixels from the left."""
        return MARGIN + self.lane * LANE

    @property
    def y(self) -> int:
        """Pixels from the top; the title is above."""
        return 3 * MARGIN + self.row * ROW


def lay_out(events: Sequence[GraphEvent]) -> dict[int, Spot]:
    """A row for each event, after its parents; a lane for each branch, taken up again when free.

    Returns position → place.
    """
    ordered = sorted(events, key=lambda event: event.position)
    children: dict[int, int] = {}
    for event in ordered:
        for parent in event.prev_events:
            children[parent] = children.get(parent, 0) + 1
    lanes: list[int | None] = []  # the last event of each, as long as others may follow it there
    spots: dict[int, Spot] = {}
    for row, event in enumerate(ordered):
        for parent in event.prev_events:
            children[parent] -= 1
        # Who is followed by nobody leaves its parent's lane to those who are still to come.
        lane = next(
            (
                n
                for n, last in enumerate(lanes)
                if last in event.prev_events
                and (event.position in children or not children.get(last or 0))
            ),
            None,
        )
        if lane is None and None in lanes:
            lane = lanes.index(None)
        elif lane is None:
            lane = len(lanes)
            lanes.append(None)
        lanes[lane] = event.position
        spots[event.position] = Spot(row, lane)
        lanes = [last if last is not None and children.get(last) else None for last in lanes]
    return spots


def draw(
    head: RoomHead, events: Sequence[GraphEvent], around: str | None, *, with_auth: bool
) -> str:
    """The picture: a self-contained SVG."""
    spots = lay_out(events)
    text_x = MARGIN + LANE * (1 + max((spot.lane for spot in spots.values()), default=0))
    width, height = text_x + WIDTH_OF_TEXT, 4 * MARGIN + ROW * len(events)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}">',
        f"<title>{_clean(head.room_id)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="{MARGIN}" y="{MARGIN}">{_clean(head.room_id)}'
        f" (room version {_clean(head.room_version)})</text>",
        f'<text class="faint" x="{MARGIN}" y="{MARGIN + 18}">{_clean(_legend(with_auth))}</text>',
    ]
    for event in events:
        if event.event_id == around:
            y = spots[event.position].y - ROW // 2
            parts.append(f'<rect class="around" y="{y}" width="{width}" height="{ROW}"/>')
    for event in events:
        parts += _edges(event, spots, with_auth)
    parts += [_node(event, spots[event.position], text_x) for event in events]
    return "\n".join([*parts, "</svg>", ""])


def _legend(with_auth: bool) -> str:
    legend = "square: state, ringed: current; green: accepted, orange: soft-failed, red: rejected"
    return legend + ("; dotted: allowed by" if with_auth else "")


def _edges(event: GraphEvent, spots: Mapping[int, Spot], with_auth: bool) -> list[str]:
    here = spots[event.position]
    edges = []
    for parent in event.prev_events:
        there = spots.get(parent)
        if there is None:  # it lies above the picture
            path = f"M{here.x} {here.y} v-{ROW - 4}"
            edges.append(f'<path class="prev" stroke-dasharray="4 3" d="{path}"/>')
            continue
        # Down the lane of the one that is further out, so that lines do not cross events.
        if there.lane >= here.lane:
            path = f"M{there.x} {there.y} V{here.y - ROW} L{here.x} {here.y}"
        else:
            path = f"M{there.x} {there.y} L{here.x} {there.y + ROW} V{here.y}"
        edges.append(f'<path class="prev" d="{path}"/>')
    for authorising in event.auth_events if with_auth else ():
        there = spots.get(authorising)
        if there is not None:
            bend = min(here.x, there.x) - 14
            path = f"M{there.x} {there.y} C{bend} {there.y} {bend} {here.y} {here.x} {here.y}"
            edges.append(f'<path class="auth" d="{path}"/>')
    return edges


def _node(event: GraphEvent, spot: Spot, text_x: int) -> str:
    colour = COLOURS[event.verdict]
    r = RADIUS
    if event.state_key is None:
        shape = f'<circle cx="{spot.x}" cy="{spot.y}" r="{r - 1}" fill="{colour}"/>'
    else:
        corner = f'x="{spot.x - r}" y="{spot.y - r}" width="{2 * r}" height="{2 * r}"'
        shape = f'<rect {corner} fill="{colour}"/>'
    if event.is_current:
        shape += f'<circle class="now" cx="{spot.x}" cy="{spot.y}" r="{r + 4}"/>'
    verdict = "" if event.verdict == 0 else f" — {VERDICTS[event.verdict]}: {event.reason}"
    redacted = " — redacted" if event.redacted_by is not None else ""
    label = f"{event.version} {described(event)}{verdict}{redacted}"
    style = "state" if event.state_key is not None else "message"
    told = (
        f"{event.event_id}\nversion {event.version}, position {event.position},"
        f" depth {event.depth}\n{described(event)}\n{VERDICTS[event.verdict]}"
        + (f": {event.reason}" if event.reason else "")
    )
    tip = "".join(f"{_clean(line)}\n" for line in told.split("\n"))
    return (
        f"<g><title>{tip}</title>{shape}"
        f'<text class="{style}" x="{text_x}" y="{spot.y + 4}">{_clean(label)}</text></g>'
    )


def _clean(text: str) -> str:
    """What others wrote, safe in SVG: one line, no markup."""
    return escape(shown(text).plain)
