"""Text for searches: folded, cut into words, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architex.domain.search_text import MAX_WORD_LENGTH, MAX_WORDS, fold_text, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Alice Liddell", ["alice", "liddell"]),
        ("  ", []),
        ("STRASSE Straße", ["strasse"]),
        ("O'Neil-Smith_jr", ["o", "neil", "smith", "jr"]),
        ("\uff21\uff42\uff43", ["abc"]),
        ("三毛猫 7", ["三毛猫", "7"]),
        ("a\0b", ["a", "b"]),
    ],
)
def test_words_are_folded_and_cut_at_what_is_no_letter(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text())
def test_folding_forgets_case_and_nul(text: str) -> None:
    folded = fold_text(text)
    assert "\0" not in folded
    words = words_of(text)
    assert len(words) <= MAX_WORDS
    assert all(0 < len(word) <= MAX_WORD_LENGTH for word in words)


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_a_shouted_word_is_the_same_word(text: str) -> None:
    assert words_of(text.upper()) == words_of(text)
