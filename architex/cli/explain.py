"""`architex room explain`: why an entry of a room's current state is what it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text
from rich.tree import Tree

from architex.cli.common import config_option
from architex.cli.inspecting import VERDICTS, described, moment, opened_room
from architex.cli.tables import console, json_option, print_json, shown
from architex.projections.room_graph import GraphEvent
from architex.usecases.explaining import (
    Candidate,
    Explaining,
    Explanation,
    Fate,
    How,
    Meeting,
)

MAX_SHOWN = 20

_ALGORITHMS = {"1": "version 1", "2": "version 2", "2.1": "version 2.1 (from room version 12 on)"}


@click.command()
@config_option
@click.argument("room")
@click.argument("type")
@click.argument("state_key", metavar="[KEY]", default="")
@json_option
def explain(config_file: str | None, room: str, type: str, state_key: str, as_json: bool) -> None:
    """Explain why the current state of ROOM has what it has under TYPE and KEY.

    Says which event stands there, who sent it and when, and which events allow it, down to the
    room's creation. Where branches of the room disagreed about it, the resolution is run again:
    what each branch had, the candidates in the order in which they were tried, and the rule that
    refused each that was refused.
    """
    with opened_room(config_file, room) as (database, head):
        explanation = Explaining(database).explain(head, type, state_key)
    if as_json:
        print_json(_as_json(explanation))
    else:
        console().print(_tree(explanation))


def _tree(told: Explanation) -> Tree:
    tree = Tree(shown(f"{told.type} {told.state_key!r} in {told.room_id}"))
    tree.add(shown(_headline(told)))
    if told.event is not None:
        _add_event(tree.add("the event"), told.event)
    if told.event is not None and told.auth_chain:
        chain = tree.add("allowed by, directly (*) or not, back to the room's creation")
        for link in _some(told.auth_chain):
            star = "*" if link.event_id in told.auth_events else " "
            chain.add(shown(f"{star} {link.event_id}  {described(link)}"))
        if len(told.auth_chain) > MAX_SHOWN:
            chain.add(shown(f"… {len(told.auth_chain) - MAX_SHOWN} more between; see --json"))
    if told.meeting is not None:
        _add_meeting(tree, told.meeting)
    elif told.how is How.SET:
        tree.add("no branches have disagreed about it since")
    return tree


def _headline(told: Explanation) -> str:
    if told.event is None:
        return "Nothing stands there; nothing ever did."
    since = "" if told.since is None else f"position {told.since.position}"
    if told.how is How.SET:
        return f"It stands since it was accepted, at {since}."
    came = "" if told.since is None else f"when {told.since.event_id} came, at {since}"
    if told.how is How.RESOLVED:
        return f"It was sent earlier; the resolution of branches put it there {came}."
    return f"Nothing stands there: the resolution of branches took it away {came}. Before, it was:"


def _add_event(tree: Tree, event: GraphEvent) -> None:
    tree.add(shown(f"{event.event_id}, {VERDICTS[event.verdict]}"))
    tree.add(shown(f"sent by {event.sender} at {moment(event.origin_server_ts)} (they say)"))
    tree.add(shown(f"version {event.version} of the room, position {event.position} of the log"))
    if event.membership is not None:
        tree.add(shown(f"membership {event.membership}"))
    if event.redacted_by is not None:
        tree.add(shown(f"redacted by the event at position {event.redacted_by}"))


def _add_meeting(tree: Tree, meeting: Meeting) -> None:
    title = (
        f"branches disagreed about it when {meeting.came_with.event_id} came;"
        f" state resolution {_ALGORITHMS[meeting.algorithm]}, {meeting.tried} events tried"
    )
    branch = tree.add(shown(title))
    ends = branch.add("the ends that met, and what each has there")
    for end, value in meeting.ends.items():
        ends.add(shown(f"{end}: {value or 'nothing'}"))
    candidates = branch.add("the candidates, in the order in which they were tried")
    for candidate in meeting.candidates:
        candidates.add(_candidate(candidate))
    if not any(candidate.fate is Fate.STANDS for candidate in meeting.candidates):
        branch.add("none was allowed: nothing stands there")


def _candidate(candidate: Candidate) -> Text:
    fates = {
        Fate.STANDS: ("stands: it was the last that the rules allowed", "green"),
        Fate.REFUSED: (f"refused: {candidate.rule}", "red"),
        Fate.GAVE_WAY: ("allowed, but a later one took its place", "yellow"),
        Fate.NOT_REACHED: ("not tried: others come before it", "yellow"),
    }
    fate, style = fates[candidate.fate]
    where = "" if candidate.ends else " (in no branch's state, but it authorises one)"
    text = shown(f"{candidate.event.event_id}  {described(candidate.event)}{where}: ")
    return text.append_text(Text(shown(fate).plain, style=style))


def _some(chain: Iterable[GraphEvent]) -> list[GraphEvent]:
    """The oldest few and the newest of a chain."""
    links = list(chain)
    if len(links) <= MAX_SHOWN:
        return links
    return [*links[: MAX_SHOWN // 2], *links[-MAX_SHOWN // 2 :]]


def _as_json(told: Explanation) -> dict[str, Any]:
    plain = asdict(told)
    plain["how"] = told.how.value
    if told.meeting is not None:
        for candidate, source in zip(
            plain["meeting"]["candidates"], told.meeting.candidates, strict=True
        ):
            candidate["fate"] = source.fate.value
    return plain
