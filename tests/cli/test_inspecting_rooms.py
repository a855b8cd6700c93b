"""The commands that look into one room: explain and dag."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

import pytest

from architex.bootstrap import Core
from architex.cli.dag import Spot, lay_out
from architex.domain.identifiers import EventId
from architex.projections.room_graph import GraphEvent
from tests.builders import ALICE, BOB, RoomBuilder
from tests.cli.conftest import Run
from tests.core import create_room
from tests.usecases.test_judging import found_room, judge

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(run: Run) -> Run:
    """Run `architex room …`."""
    return partial(run, "room")


@pytest.fixture
def fork(core: Core) -> RoomBuilder:
    """A room in which somebody set the topic while being banned, judged here."""
    room = RoomBuilder("11")
    room.join(BOB)
    room.set_power_levels(ALICE, users={ALICE: 100, BOB: 50})
    room.send_state(ALICE, "m.room.topic", {"topic": "first"})
    branch = room.fork()
    branch.send_state(BOB, "m.room.topic", {"topic": "theirs"})
    room.ban(ALICE, BOB)
    branch.message(BOB, "<script>alert(1)</script>")
    room.send_state(ALICE, "org.example.<b>\u202e", {"text": "odd"})
    create, *pdus = room.pdus.values()
    found_room(core, create, room.rules)
    judge(core, create.room_id, pdus)
    return room


def test_explanation_names_the_rule_that_refused_the_loser(run: Run, fork: RoomBuilder) -> None:
    result = run("explain", fork.room_id, "m.room.topic")
    assert result.exit_code == 0, result.output
    assert f"refused: {BOB} is not in the room." in result.output
    assert "the resolution of branches put it there" in result.output
    assert fork.state["m.room.topic", ""] in result.output
    told = json.loads(run("explain", fork.room_id, "m.room.topic", "--json").stdout)
    assert told["how"] == "resolved"
    assert {c["fate"] for c in told["meeting"]["candidates"]} == {"refused", "stands"}
    assert told["auth_chain"][0]["type"] == "m.room.create"


def test_entry_with_a_key_is_explained(run: Run, fork: RoomBuilder) -> None:
    result = run("explain", fork.room_id, "m.room.member", BOB)
    assert "membership ban" in result.output
    assert f"sent by {ALICE}" in result.output
    assert (
        "Nothing stands there; nothing ever did."
        in run("explain", fork.room_id, "m.room.member", "@nobody:a.example").output
    )


def test_unknown_room_is_refused(run: Run) -> None:
    result = run("explain", "!none:a.example", "m.room.topic")
    assert result.exit_code == 1
    assert "no room !none:a.example" in result.output


def test_picture_shows_every_event_with_its_verdict(
    run: Run, fork: RoomBuilder, tmp_path: Path
) -> None:
    soft_failed = next(pdu for pdu in fork.pdus.values() if pdu.type == "m.room.message")
    file = tmp_path / "room.svg"
    result = run("dag", fork.room_id, "--around", soft_failed.event_id, "--auth", "-o", str(file))
    assert result.exit_code == 0, result.output
    text = file.read_text()
    root = ElementTree.fromstring(text)  # noqa: S314 - our own picture
    groups = root.findall(f"{SVG}g")
    assert len(groups) == len(fork.pdus)
    told = ["".join(group.itertext()) for group in groups]
    for event_id in fork.pdus:
        assert any(event_id in line for line in told)
    assert sum("soft-failed" in line for line in told) == 1
    assert root.findall(f"{SVG}path[@class='auth']")
    # What others wrote does nothing in the picture.
    assert root.find(f".//{SVG}b") is None
    assert "\u202e" not in text


def test_picture_is_of_as_many_events_as_asked_for(run: Run, core: Core) -> None:
    room_id = create_room(core)
    picture = run("dag", room_id, "--count", "2").stdout
    assert len(ElementTree.fromstring(picture).findall(f"{SVG}g")) == 2  # noqa: S314 - ours
    assert run("dag", room_id, "--around", "$none").exit_code == 1


def graph_event(position: int, *prev_events: int) -> GraphEvent:
    event_id: EventId = f"${position}"
    return GraphEvent(
        position, position, event_id, 0, position, prev_events, (), None, "m", None, ALICE, 0,
        None, None, False,
    )  # fmt: skip


def test_branches_have_lanes_of_their_own_and_give_them_back() -> None:
    events = [
        graph_event(1),
        graph_event(2, 1),
        graph_event(3, 1),
        graph_event(4, 2),
        graph_event(5, 3, 4),
        graph_event(6, 5),
        graph_event(7, 5),
    ]
    spots = lay_out(events)
    assert [spots[n].row for n in range(1, 8)] == list(range(7))
    assert [spots[n].lane for n in range(1, 8)] == [0, 0, 1, 0, 0, 1, 0]
    assert spots[1] == Spot(0, 0)
