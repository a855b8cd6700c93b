"""Followed projections: each fact once, whatever happens to the follower."""

from __future__ import annotations

import pytest

from architex.bootstrap import Core
from architex.domain.room.aggregate import EventDraft
from architex.projections.current_state import CurrentState
from architex.projections.following import CatchUp, FollowedProjection, FollowerOvertaken
from architex.projections.rebuilding import rebuild_projection
from architex.projections.room_directory import RoomDirectory
from tests.core import ALICE, append, create_room, send_message
from tests.projections.traffic import RandomTraffic, rows_of


def followed(core: Core, batch_size: int = 500) -> FollowedProjection:
    """A new follower of the room directory."""
    return FollowedProjection(
        core.database, RoomDirectory(), monotonic=core.clock.monotonic, batch_size=batch_size
    )


def name_room(core: Core, room_id: str, name: str) -> None:
    append(core, room_id, EventDraft("m.room.name", ALICE, {"name": name}, ""))


def test_inline_projection_cannot_be_followed(core: Core) -> None:
    with pytest.raises(ValueError, match="current_state"):
        FollowedProjection(core.database, CurrentState(), monotonic=core.clock.monotonic)


def test_follower_goes_on_where_another_came_to(core: Core) -> None:
    room_id = create_room(core)
    followed(core).advance()
    core.database.execute("UPDATE room_directory SET name = 'seen already'")
    name_room(core, create_room(core), "Garden")
    followed(core).advance()
    names = core.database.fetch_all("SELECT name FROM room_directory ORDER BY room_nid")
    assert names == [("seen already",), ("Garden",)]
    assert room_id


def test_batches_of_any_size_give_the_same_rows(core: Core) -> None:
    RandomTraffic(core, seed=3).run(60)
    small = followed(core, batch_size=3)
    while small.advance():
        pass
    rows = rows_of(core.database, "room_directory")
    rebuild_projection(core.database, RoomDirectory())
    assert rows_of(core.database, "room_directory") == rows


def test_two_followers_at_once_apply_each_fact_once(core: Core) -> None:
    first, second = followed(core), followed(core)
    room_id = create_room(core)
    first.advance()
    second.advance()
    name_room(core, room_id, "Garden")
    first.advance()
    with pytest.raises(FollowerOvertaken):
        second.advance()
    name_room(core, room_id, "Kitchen")
    second.advance()
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Kitchen",)]


def test_who_reads_catches_up_and_is_held_up_by_no_long_way(core: Core) -> None:
    follower = followed(core)
    follower.advance()
    catch_up = CatchUp(core.database, [RoomDirectory()], monotonic=core.clock.monotonic)
    room_id = create_room(core)
    name_room(core, room_id, "Garden")
    catch_up()
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Garden",)]
    for number in range(450):
        name_room(core, room_id, f"Room {number}")
    catch_up()
    assert core.database.fetch_all("SELECT name FROM room_directory") != [("Room 449",)]
    with pytest.raises(FollowerOvertaken):
        follower.advance()
    while follower.advance():
        pass
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Room 449",)]


def test_what_cannot_be_caught_up_with_is_read_as_it_is(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(core)
    name_room(core, room_id, "Garden")
    catch_up = CatchUp(core.database, [RoomDirectory()], monotonic=core.clock.monotonic)
    catch_up()
    name_room(core, room_id, "Kitchen")
    # Somebody is writing, and does not come to an end.
    with core.database.transaction() as connection:
        connection.execute("SELECT 1 FROM tracking FOR UPDATE")
        catch_up()
    monkeypatch.setattr(RoomDirectory, "apply", lambda *_: 1 / 0)
    catch_up()
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Garden",)]
    monkeypatch.undo()
    catch_up()
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Kitchen",)]


def test_follower_goes_on_after_a_rebuild(core: Core) -> None:
    follower = followed(core)
    room_id = create_room(core)
    follower.advance()
    name_room(core, room_id, "Garden")
    rebuild_projection(core.database, RoomDirectory())
    name_room(core, room_id, "Kitchen")
    with pytest.raises(FollowerOvertaken):
        follower.advance()
    follower.advance()
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Kitchen",)]


def test_failure_while_writing_loses_and_repeats_nothing(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = create_room(core)
    follower = followed(core)
    follower.advance()
    name_room(core, room_id, "Garden")
    with monkeypatch.context() as broken:

        def fail(*args: object) -> None:
            raise ValueError("broken")

        broken.setattr(RoomDirectory, "apply", fail)
        with pytest.raises(ValueError, match="broken"):
            follower.advance()
    assert core.database.fetch_all("SELECT name FROM room_directory") == [(None,)]
    follower.advance()
    assert core.database.fetch_all("SELECT name FROM room_directory") == [("Garden",)]


def test_messages_are_passed_over_without_a_write(core: Core) -> None:
    room_id = create_room(core)
    follower = followed(core)
    follower.advance()
    before = core.database.fetch_all("SELECT xmin::text, notification_id FROM tracking")
    for n in range(3):
        send_message(core, room_id, ALICE, f'{n} "state_key":')
    assert follower.advance() is False
    assert core.database.fetch_all("SELECT xmin::text, notification_id FROM tracking") == before
