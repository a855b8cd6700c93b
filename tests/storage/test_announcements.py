"""What processes tell each other of commits."""

from __future__ import annotations

import json

from architex.storage.announcements import MAX_ANNOUNCEMENT_BYTES, build_announcement


def test_announcement_names_the_rooms_and_users_concerned() -> None:
    told = json.loads(build_announcement(7, {3, 1}, {"@bob:a.test", "@alice:a.test"}))
    assert told == {"p": 7, "r": [1, 3], "u": ["@alice:a.test", "@bob:a.test"]}


def test_announcement_that_concerns_too_many_is_to_everybody() -> None:
    users = {f"@user{number}:architex.test" for number in range(1000)}
    told = build_announcement(7, (), users)
    assert json.loads(told) == {"p": 7, "all": True}
    assert len(told) <= MAX_ANNOUNCEMENT_BYTES
