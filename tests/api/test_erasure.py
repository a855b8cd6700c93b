"""What is left of users who wanted to be forgotten when their account ended."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.sql import SQL, Identifier

from tests.api.client import Server, User


def send(user: User, room_id: str, body: str) -> str:
    """A message; its event ID."""
    path = f"/rooms/{room_id}/send/m.room.message/{body}"
    event_id: str = user.put(path, {"msgtype": "m.text", "body": body}).ok()["event_id"]
    return event_id


def seen(user: User, room_id: str, event_id: str) -> list[Any]:
    """The content of an event in every way the user can read it."""
    quoted = f"/rooms/{room_id}"
    page = user.get(f"{quoted}/messages", dir="b", limit=50).ok()["chunk"]
    timeline = user.get("/sync").ok()["rooms"]["join"][room_id]["timeline"]["events"]
    single = user.get(f"{quoted}/event/{event_id}").ok()
    context = user.get(f"{quoted}/context/{event_id}").ok()["event"]
    found = [e for e in [*page, *timeline] if e["event_id"] == event_id]
    assert len(found) == 2
    return [e["content"] for e in [*found, single, context]]


@pytest.mark.parametrize("erase", [True, False])
def test_only_who_was_there_sees_messages_of_users_who_wanted_to_be_forgotten(
    alice: User, bob: User, erase: bool
) -> None:
    server = alice.server
    room_id = alice.create_room(preset="public_chat", name="Name")
    bob.post(f"/rooms/{room_id}/join").ok()
    event_id = send(alice, room_id, "secret")
    content = {"msgtype": "m.text", "body": "secret"}
    early = server.register()
    early.post(f"/rooms/{room_id}/join").ok()
    assert seen(early, room_id, event_id) == [content] * 4
    alice.post("/account/deactivate", {"auth": alice.password_auth(), "erase": erase}).ok()
    late = server.register()
    late.post(f"/rooms/{room_id}/join").ok()
    assert seen(bob, room_id, event_id) == [content] * 4
    for newcomer in (early, late):
        assert seen(newcomer, room_id, event_id) == [{} if erase else content] * 4
    # The room keeps what it is.
    assert late.get(f"/rooms/{room_id}/state/m.room.name").ok() == {"name": "Name"}


@pytest.mark.parametrize("erase", [True, False])
def test_words_of_users_who_wanted_to_be_forgotten_are_found_by_who_was_there(
    alice: User, bob: User, erase: bool
) -> None:
    room_id = alice.create_room(preset="public_chat", name="Quibbles")
    bob.post(f"/rooms/{room_id}/join").ok()
    send(alice, room_id, "quibbled")
    alice.post("/account/deactivate", {"auth": alice.password_auth(), "erase": erase}).ok()
    late = alice.server.register()
    late.post(f"/rooms/{room_id}/join").ok()
    for user, term, count in (
        (bob, "quibbled", 1),
        (late, "quibbled", 0 if erase else 1),
        (late, "quibbles", 1),
    ):
        body = {"search_categories": {"room_events": {"search_term": term}}}
        found = user.post("/search", body).ok()["search_categories"]["room_events"]
        assert (found["count"], len(found["results"])) == (count, count)


def tables_with(server: Server, word: str) -> set[str]:
    """The tables in which any row has a word anywhere."""
    with server.core.database.connection() as connection:
        names = connection.execute(
            b"SELECT relname FROM pg_class"
            b" WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        found = set()
        for (name,) in names:
            query = SQL("SELECT 1 FROM {} t WHERE t::text LIKE %s LIMIT 1").format(
                Identifier(name)
            )
            if connection.execute(query, (f"%{word}%",)).fetchone() is not None:
                found.add(name)
    return found


def test_nothing_but_events_is_left_of_who_wanted_to_be_forgotten(
    server: Server, alice: User
) -> None:
    word = "quibblesecret"
    room_id = alice.create_room()
    event_id = send(alice, room_id, "hello")
    account_data = f"/user/{alice.path}"
    alice.put(f"{account_data}/account_data/org.example.note", {"note": word}).ok()
    alice.put(f"{account_data}/rooms/{room_id}/account_data/org.example.note", {"n": word}).ok()
    alice.put(f"{account_data}/rooms/{room_id}/tags/u.{word}", {}).ok()
    alice.post(f"{account_data}/filter", {"room": {"not_senders": [f"@{word}:x"]}}).ok()
    rule = {"pattern": word, "actions": ["notify"]}
    alice.put(f"/pushrules/global/content/{word}", rule).ok()
    alice.put(f"/presence/{alice.path}/status", {"presence": "online", "status_msg": word}).ok()
    alice.put(f"/devices/{alice.device_id}", {"display_name": word}).ok()
    backup = {
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": {"public_key": word},
    }
    alice.post("/room_keys/version", backup).ok()
    alice.post(f"/rooms/{room_id}/receipt/m.read/{event_id}").ok()
    pusher = {
        "kind": "http",
        "app_id": "org.example",
        "pushkey": word,
        "app_display_name": "Example",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": "https://push.example/_matrix/push/v1/notify"},
    }
    alice.post("/pushers/set", pusher).ok()
    expected = {"account_data", "filters", "push_rules", "presence", "devices", "pushers"}
    assert tables_with(server, word) >= expected | {"key_backup_versions"}
    alice.post("/account/deactivate", {"auth": alice.password_auth(), "erase": True}).ok()
    assert tables_with(server, word) == set()
    left = tables_with(server, alice.user_id)
    assert left.isdisjoint({"receipts", "access_tokens", "transactions", "profiles"})
