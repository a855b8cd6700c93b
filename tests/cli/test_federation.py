"""architex federation list, show, retry: what waits for other servers, and why."""

from __future__ import annotations

import json
from functools import partial

import pytest

from architex.bootstrap import Core
from architex.gateways.errors import RemoteRefused
from tests.cli.conftest import Run
from tests.core import ALICE, SERVER_NAME, append, create_room, member_draft, send_message
from tests.fakes.clock import FakeClock
from tests.followers.test_federation_sender import Others, make_sender, refuses
from tests.followers.test_federation_sender import run as run_sender

CAROL = "@carol:c.example"
DAVE = "@dave:d.example"


@pytest.fixture
def settings_toml() -> str:
    return f'server_name = "{SERVER_NAME}"\n'


@pytest.fixture
def run(run: Run) -> Run:
    """Run `architex federation …`."""
    return partial(run, "federation")


@pytest.fixture
def others(core: Core) -> Others:
    """A server that is away and one that refuses something; Alice has sent them messages."""
    others = Others()
    room_id = create_room(core)
    for user_id in (CAROL, DAVE):
        append(core, room_id, member_draft(user_id, user_id, "join"))
    others.breaks("c.example", RemoteRefused("c.example", 503, {"error": "\x1b[31mred\x07"}))
    others.fails["d.example"] = refuses("bad")
    sender = make_sender(core, others, FakeClock())
    for body in ("good", "bad", "good"):
        send_message(core, room_id, ALICE, body)
    run_sender(sender)
    return others


def test_list_says_what_waits_the_error_and_the_next_try(run: Run, others: Others) -> None:
    result = run("list")
    assert result.exit_code == 0, result.output
    heading, away, refusing = result.output.splitlines()
    assert "next try" in heading
    assert away.startswith("c.example")
    assert "failing" in away
    assert "503" in away
    assert "2023-11-14T22:13:2" in away
    assert "\x1b" not in result.output
    assert refusing.split()[:3] == ["d.example", "all", "sent"]
    away_told, refusing_told = json.loads(run("list", "--json").stdout)
    assert away_told["waiting"]["events"] == 3
    assert away_told["waiting"]["rooms"] == 1
    assert away_told["failures"] == 1
    assert refusing_told["refused"] == 1
    (failing,) = json.loads(run("list", "--failing", "--json").stdout)
    assert failing["server_name"] == "c.example"


def test_show_names_what_a_server_refused(run: Run, core: Core, others: Others) -> None:
    result = run("show", "d.example")
    assert result.exit_code == 0, result.output
    (event_id,) = core.database.fetch_all("SELECT what FROM refused_by_destinations")
    assert event_id[0] in result.output
    assert "M_BAD_JSON" in result.output
    told = json.loads(run("show", "d.example", "--json").stdout)
    assert told["refused"][0]["what"] == event_id[0]


def test_show_says_since_when_it_fails(run: Run, others: Others) -> None:
    result = run("show", "c.example")
    assert "3 events in 1 room(s), the oldest of 20" in result.output
    assert "1 times, since 2023-11-14T22:13:20" in result.output
    assert "architex federation check c.example" in result.output


def test_retry_has_the_running_server_try_at_once(run: Run, core: Core, others: Others) -> None:
    result = run("retry", "c.example")
    assert result.exit_code == 0, result.output
    others.mends("c.example")
    run_sender(make_sender(core, others, FakeClock()))
    assert others.events["c.example"] == ["good", "bad", "good"]
    assert "all sent" in run("show", "c.example").output


@pytest.mark.parametrize("command", ["show", "retry"])
def test_server_we_never_sent_to_is_said_to_be_one(run: Run, command: str) -> None:
    result = run(command, "unknown.example")
    assert result.exit_code == 1
    assert "unknown.example" in result.output
