"""Sync and pagination tokens."""

import pytest

from architex.domain.errors import InvalidParam
from architex.domain.sync_token import (
    format_pagination_token,
    format_sync_token,
    parse_pagination_token,
    parse_sync_token,
    parse_to_device_position,
)


@pytest.mark.parametrize("position", [0, 1, 123_456_789_012])
def test_sync_token_survives_the_round_trip(position: int) -> None:
    assert parse_sync_token(format_sync_token(position)) == position
    assert parse_pagination_token(format_sync_token(position)) == position


def test_sync_token_says_up_to_where_messages_to_the_device_were_told() -> None:
    token = format_sync_token(70, 65)
    assert (parse_sync_token(token), parse_to_device_position(token)) == (70, 65)
    assert parse_pagination_token(token) == 70
    assert parse_to_device_position(format_sync_token(70)) == 70


@pytest.mark.parametrize("ordering", [0, -5, 77])
def test_pagination_token_survives_the_round_trip(ordering: int) -> None:
    assert parse_pagination_token(format_pagination_token(ordering)) == ordering


@pytest.mark.parametrize("text", ["", "s", "1", "s-1", "s1 ", "s٣", "x1", "s1_2", "s" + "9" * 19])
def test_garbage_is_no_sync_token(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_sync_token(text)


@pytest.mark.parametrize("text", ["", "t", "t--1", "END", "s1\n", "t" + "9" * 40])
def test_garbage_is_no_pagination_token(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_pagination_token(text)
