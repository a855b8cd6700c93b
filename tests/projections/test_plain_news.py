"""What is new in a room for all its members alike: read at the cost of the news."""

from __future__ import annotations

import psycopg

from architex.bootstrap import Core
from architex.projections.plain_news import read_plain_news
from tests.core import ALICE, append, create_room, member_draft, send_message


def test_news_of_a_room_just_grown_large_are_read_without_its_members(core: Core) -> None:
    room_id = create_room(core)
    users = [f"@user{number}:s{number % 50}.example" for number in range(1500)]
    append(core, room_id, *(member_draft(user, user, "join") for user in users))
    head = core.event_log.find_head(room_id)
    assert head is not None
    since = head.last_position
    for number in range(8):
        send_message(core, room_id, users[number], f"{number}")
    # Nobody has counted yet what is in the tables: PostgreSQL plans as if they were small.
    with psycopg.connect(core.database.conninfo) as connection:
        news = read_plain_news(connection, ALICE, head.room_nid, since, since + 8, 0)
        row = connection.execute(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables"
        ).fetchone()
    assert news is not None
    assert len(news.events) == 8
    assert row is not None
    assert 8 <= row[0] < 300
