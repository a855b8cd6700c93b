"""Identifiers and their grammar."""

from __future__ import annotations

import pytest

from architex.domain.errors import InvalidParam, InvalidUsername
from architex.domain.identifiers import (
    check_localpart,
    localpart_of,
    parse_event_id,
    parse_room_alias,
    parse_room_id,
    parse_server_name,
    parse_user_id,
    server_name_of,
)

CREATE_HASH = "Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"


@pytest.mark.parametrize(
    "name",
    [
        "matrix.org",
        "matrix.org:8888",
        "1.2.3.4",
        "1.2.3.4:1234",
        "[1234:5678::abcd]",
        "[1234:5678::abcd]:5678",
        "localhost:0",
        "UPPER.example",
        "a-b.example",
        "[::ffff:1.2.3.4]",
    ],
)
def test_server_names_of_the_grammar_are_taken(name: str) -> None:
    assert parse_server_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "exämple.org",
        "matrix.org:",
        "matrix.org:123456",
        "matrix.org:8a",
        "256.1.1.1",
        "[1234:5678::abcd",
        "1234:5678::abcd",
        "[::g]",
        "[1::2::3]",
        "under_score.example",
        "a/b",
        "matrix.org\n",
        "x" * 256,
        "matrix.org:\u0661",
    ],
)
def test_other_server_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidParam):
        parse_server_name(name)


@pytest.mark.parametrize(
    "user_id",
    [
        "@alice:example.org",
        "@a.b_c=d-e/f+0:example.org:8448",
        "@UPPER:example.org",
        "@:example.org",
        "@with space:example.org",
        "@ünïcödé:example.org",
        "@new\nline:example.org",
        "@x:[::1]:80",
    ],
)
def test_user_ids_of_today_and_of_old_are_taken(user_id: str) -> None:
    assert parse_user_id(user_id) == user_id


@pytest.mark.parametrize(
    "user_id",
    [
        "",
        "alice:example.org",
        "@alice",
        "@alice:",
        "@alice:exa mple",
        "@al\0ice:example.org",
        "@\ud800:example.org",
        "@a:b:c.example",
        "@" + "a" * 250 + ":x.org",
        "@" + "é" * 125 + ":x.org",
        "!alice:example.org",
    ],
)
def test_what_is_no_user_id_is_refused(user_id: str) -> None:
    with pytest.raises(InvalidParam):
        parse_user_id(user_id)


def test_a_user_id_has_at_most_255_bytes() -> None:
    longest = "@" + "a" * (255 - len("@:x.org")) + ":x.org"
    assert parse_user_id(longest) == longest
    with pytest.raises(InvalidParam):
        parse_user_id("@a" + longest[1:])


@pytest.mark.parametrize("user_id", ["@Alice:x.org", "@:x.org", "@a!b:x.org"])
def test_historical_user_ids_are_taken_and_not_given(user_id: str) -> None:
    assert parse_user_id(user_id) == user_id
    with pytest.raises(InvalidUsername):
        check_localpart(localpart_of(user_id), server_name_of(user_id))


@pytest.mark.parametrize("localpart", ["alice", "0", "a.b_c=d-e/f+g", "a" * 243])
def test_a_new_user_may_have_a_localpart_of_the_grammar(localpart: str) -> None:
    check_localpart(localpart, "x.example")


@pytest.mark.parametrize("localpart", ["", "Alice", "a b", "é", "a:b", "a\0", "a\n", "a" * 245])
def test_a_new_user_may_not_have_another_localpart(localpart: str) -> None:
    with pytest.raises(InvalidUsername):
        check_localpart(localpart, "x.example")


@pytest.mark.parametrize(
    "room_id", ["!opaque:example.org", "!:example.org", "!" + CREATE_HASH, "!é/\n:example.org"]
)
def test_room_ids_with_and_without_domain_are_taken(room_id: str) -> None:
    assert parse_room_id(room_id) == room_id


@pytest.mark.parametrize(
    "room_id", ["", "!", "!opaque", "#a:b.c", "!a\0:b.c", "!" + CREATE_HASH[1:], "!a:b c"]
)
def test_what_is_no_room_id_is_refused(room_id: str) -> None:
    with pytest.raises(InvalidParam):
        parse_room_id(room_id)


@pytest.mark.parametrize("event_id", ["$old:example.org", "$" + CREATE_HASH, "$acR1l0raoZ/O+x"])
def test_event_ids_of_every_room_version_are_taken(event_id: str) -> None:
    assert parse_event_id(event_id) == event_id


@pytest.mark.parametrize("event_id", ["", "$", "abc", "$a\0", "$" + "a" * 255, "$\udc00"])
def test_what_is_no_event_id_is_refused(event_id: str) -> None:
    with pytest.raises(InvalidParam):
        parse_event_id(event_id)


@pytest.mark.parametrize("alias", ["#room:example.org", "#Grüße aus:example.org", "#:x.org"])
def test_room_aliases_are_taken(alias: str) -> None:
    assert parse_room_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "#room", "room:example.org", "#a\0:x.org", "#a:"])
def test_what_is_no_room_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidParam):
        parse_room_alias(alias)


def test_the_server_name_is_what_follows_the_first_colon() -> None:
    assert server_name_of("@alice:example.org:8448") == "example.org:8448"
    assert server_name_of("!room:[::1]") == "[::1]"
    assert localpart_of("@alice:example.org:8448") == "alice"


def test_a_room_id_made_of_a_hash_has_no_server_name() -> None:
    with pytest.raises(InvalidParam):
        server_name_of("!" + CREATE_HASH)
