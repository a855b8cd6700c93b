"""Relations: what an event says about its parent, if it says it in the spec's form.

Spec: https://spec.matrix.org/v1.19/client-server-api/#forming-relationships-between-events
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architex.domain.identifiers import MAX_IDENTIFIER_BYTES
from architex.domain.relations import (
    ANNOTATION,
    REFERENCE,
    REPLACE,
    THREAD,
    Relation,
    find_relation,
    has_new_content,
)


def related(**fields: Any) -> dict[str, Any]:
    return {"body": "x", "m.relates_to": fields}


@pytest.mark.parametrize("rel_type", [THREAD, REPLACE, REFERENCE, "org.example.own"])
def test_relation_names_its_type_and_its_parent(rel_type: str) -> None:
    content = related(rel_type=rel_type, event_id="$parent", is_falling_back=True)
    assert find_relation(content) == Relation(rel_type, "$parent")


def test_annotation_has_a_key() -> None:
    content = related(rel_type=ANNOTATION, event_id="$parent", key="👍")
    assert find_relation(content) == Relation(ANNOTATION, "$parent", "👍")


def test_plain_reply_is_no_relation_of_a_type() -> None:
    assert find_relation(related(**{"m.in_reply_to": {"event_id": "$parent"}})) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"m.relates_to": None},
        {"m.relates_to": "$parent"},
        {"m.relates_to": ["m.thread", "$parent"]},
        related(),
        related(rel_type="m.thread"),
        related(event_id="$parent"),
        related(rel_type=5, event_id="$parent"),
        related(rel_type="m.thread", event_id={}),
        related(rel_type="", event_id="$parent"),
        related(rel_type="m.thread", event_id=""),
        related(rel_type="m.thread\0", event_id="$parent"),
        related(rel_type="m.thread", event_id="$\0"),
        related(rel_type="x" * (MAX_IDENTIFIER_BYTES + 1), event_id="$parent"),
        related(rel_type="m.thread", event_id="$" + "é" * 128),
    ],
)
def test_relation_without_the_form_is_ignored(content: dict[str, Any]) -> None:
    assert find_relation(content) is None


@pytest.mark.parametrize("key", [None, 5, "", "\0", ["x"], "x" * (MAX_IDENTIFIER_BYTES + 1)])
def test_key_that_nobody_would_send_is_none(key: Any) -> None:
    content = related(rel_type=ANNOTATION, event_id="$parent", key=key)
    assert find_relation(content) == Relation(ANNOTATION, "$parent", None)


@given(st.text(st.characters()), st.text(st.characters()), st.text(st.characters()))
def test_whatever_is_found_can_be_kept(rel_type: str, parent: str, key: str) -> None:
    relation = find_relation(related(rel_type=rel_type, event_id=parent, key=key))
    for name in relation or ():
        assert name is None or (0 < len(name) <= MAX_IDENTIFIER_BYTES and "\0" not in name)


@pytest.mark.parametrize(
    ("type", "content", "brings_it"),
    [
        ("m.room.message", {"m.new_content": {"body": "x"}}, True),
        ("m.room.message", {"m.new_content": {}}, True),
        ("m.room.message", {}, False),
        ("m.room.message", {"m.new_content": "x"}, False),
        ("m.room.message", {"m.new_content": None}, False),
        # It is inside, where no server looks.
        ("m.room.encrypted", {"ciphertext": "x"}, True),
    ],
)
def test_edit_brings_new_content(type: str, content: dict[str, Any], brings_it: bool) -> None:
    assert has_new_content(type, content) is brings_it
