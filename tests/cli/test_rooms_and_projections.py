"""The commands that look at rooms and make projections anew."""

from __future__ import annotations

import json

import pytest

from architex.bootstrap import Core, all_projections
from architex.domain.room.aggregate import EventDraft
from tests.cli.conftest import Run
from tests.core import ALICE, append, create_room, send_message
from tests.following import follow_to_the_end


def name_room(core: Core, room_id: str, name: str) -> str:
    (pdu,) = append(core, room_id, EventDraft("m.room.name", ALICE, {"name": name}, ""))
    return pdu.event_id


def test_rooms_are_listed(run: Run, core: Core) -> None:
    named, bare = create_room(core), create_room(core, version="10")
    name_room(core, named, "Garden")
    listed = run("room", "list")
    assert listed.exit_code == 0, listed.output
    line = next(line for line in listed.output.splitlines() if named in line)
    assert "Garden" in line
    assert bare in listed.output
    told = json.loads(run("room", "list", "--json").stdout)
    assert [(room["room_id"], room["name"], room["room_version"]) for room in told] == [
        (named, "Garden", "11"),
        (bare, None, "10"),
    ]
    assert "1 of 2 rooms" in run("room", "list", "--limit", "1").output


def test_room_is_shown_by_its_id_or_an_alias(run: Run, core: Core) -> None:
    room_id = create_room(core)
    name_room(core, room_id, "Garden")
    core.database.execute(
        "INSERT INTO room_aliases (room_alias, room_id, creator, created_ts)"
        " VALUES ('#garden:test.example', %s, %s, 0)",
        (room_id, ALICE),
    )
    told = json.loads(run("room", "show", "#garden:test.example", "--json").stdout)
    assert told == json.loads(run("room", "show", room_id, "--json").stdout)
    assert told["room_id"] == room_id
    assert told["creator"] == ALICE
    assert told["members"] == {"join": 1}
    assert told["aliases"] == ["#garden:test.example"]
    assert told["state"] == {"name": "Garden", "join rule": "public"}
    for text in (room_id, "Garden", "1 join", "#garden:test.example"):
        assert text in run("room", "show", room_id).output


@pytest.mark.parametrize("command", ["show", "state"])
def test_unknown_room_is_told(run: Run, command: str) -> None:
    result = run("room", command, "!no:where")
    assert result.exit_code == 1
    assert "knows no room !no:where" in result.output


def test_state_is_shown_now_and_as_it_was(run: Run, core: Core) -> None:
    room_id = create_room(core)
    send_message(core, create_room(core), ALICE, "so that versions are no positions")
    name_room(core, room_id, "Garden")
    name_room(core, room_id, "Kitchen")

    def name(*at: str) -> object:
        told = json.loads(run("room", "state", room_id, *at, "--json").stdout)
        entries = {entry["type"]: entry for entry in told}
        return entries.get("m.room.name", {}).get("content", {}).get("name")

    assert name() == "Kitchen"
    assert name("--at", "4") is None
    assert name("--at", "5") == "Garden"
    assert name("--at", "6") == "Kitchen"
    told = json.loads(run("room", "state", room_id, "--at", "5", "--json").stdout)
    entry = next(entry for entry in told if entry["type"] == "m.room.name")
    assert entry["version"] == 5
    assert entry["position"] > 5
    assert name("--at", f"position:{entry['position']}") == "Garden"
    assert name("--at", f"position:{entry['position'] - 1}") is None
    assert "Kitchen" in run("room", "state", room_id).output
    assert "Kitchen" not in run("room", "state", room_id, "--no-content").output
    beyond = run("room", "state", room_id, "--at", "7")
    assert beyond.exit_code == 1
    assert "1 to 6" in beyond.output
    assert run("room", "state", room_id, "--at", "yesterday").exit_code == 2


def test_what_users_write_cannot_play_tricks_with_the_terminal(run: Run, core: Core) -> None:
    name_room(core, create_room(core), "\x1b[2J[red]\nGar\u202eden")
    output = run("room", "list").output
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "[red]" in output


def test_redacted_state_is_shown_as_redacted(run: Run, core: Core) -> None:
    room_id = create_room(core)
    event_id = name_room(core, room_id, "Rude")
    append(core, room_id, EventDraft("m.room.redaction", ALICE, {}, redacts=event_id))
    for command in (("list",), ("show", room_id), ("state", room_id)):
        assert "Rude" not in run("room", *command).output
    assert "(redacted)" in run("room", "state", room_id).output


def test_projections_are_listed_with_what_they_lack(run: Run, core: Core) -> None:
    create_room(core)

    def lag() -> dict[str, tuple[str, int]]:
        told = json.loads(run("projections", "list", "--json").stdout)
        return {status["name"]: (status["timing"], status["facts_behind"]) for status in told}

    assert lag()["timeline"] == ("inline", 0)
    # Who created the room and who may join it; not who did, and who may do what.
    assert lag()["room_directory"] == ("followed", 2)
    follow_to_the_end(core.database)
    assert lag()["room_directory"] == ("followed", 0)
    output = run("projections", "list").output
    for projection in all_projections():
        assert projection.name in output


def test_projections_are_made_anew_all_or_by_name(run: Run, core: Core) -> None:
    name_room(core, create_room(core), "Garden")
    core.database.execute("DELETE FROM timeline")
    result = run("projections", "rebuild", "timeline")
    assert result.exit_code == 0, result.output
    assert "timeline: made anew from 5 facts up to position 5" in result.output
    assert core.database.fetch_one("SELECT count(*) FROM timeline") == (5,)
    everything = run("projections", "rebuild")
    assert everything.exit_code == 0, everything.output
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Garden",)]


def test_unknown_projection_is_refused_with_the_nearest_name(run: Run) -> None:
    result = run("projections", "rebuild", "timelime")
    assert result.exit_code == 2
    assert "Did you mean timeline?" in result.output
