"""Text as searches compare it: folded, and cut into words."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_WORDS: Final = 50
MAX_WORD_LENGTH: Final = 100

_WORD: Final = re.compile(r"[^\W_]+")


def fold_text(text: str) -> str:
    """The text without differences of case and width.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch
    """
    return unicodedata.normalize("NFKC", text.replace("\0", " ")).casefold()


def words_of(text: str) -> list[str]:
    """The folded words of a text, in their order, each once; at most 50 of 100 characters."""
    words = dict.fromkeys(word[:MAX_WORD_LENGTH] for word in _WORD.findall(fold_text(text)))
    return list(words)[:MAX_WORDS]
