"""The errors that Matrix has names for.

Spec: https://spec.matrix.org/v1.19/client-server-api/#standard-error-response
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from architex.domain.errors import (
    Forbidden,
    LimitExceeded,
    MatrixError,
    UserLimitExceeded,
    UserLocked,
)


def family(error: type[MatrixError] = MatrixError) -> Iterator[type[MatrixError]]:
    """The class and all that come from it."""
    yield error
    for child in error.__subclasses__():
        yield from family(child)


@pytest.mark.parametrize("error", list(family()), ids=lambda error: error.__name__)
def test_every_error_has_a_code_of_its_grammar(error: type[MatrixError]) -> None:
    # "M_" is the specification's; others begin like Java packages.
    assert re.fullmatch(r"M_[A-Z_]+|[A-Z]+(\.[A-Z]+)+_[A-Z_]+", error.errcode)


@pytest.mark.parametrize(
    ("error", "errcode", "fields"),
    [
        (Forbidden("No."), "M_FORBIDDEN", {}),
        (Forbidden("No.", room_id="!r:x"), "M_FORBIDDEN", {"room_id": "!r:x"}),
        (LimitExceeded("Slow.", retry_after_ms=5), "M_LIMIT_EXCEEDED", {"retry_after_ms": 5}),
        (UserLocked("Locked."), "M_USER_LOCKED", {"soft_logout": True}),
        (
            UserLimitExceeded("Full.", info_uri="https://x/"),
            "M_USER_LIMIT_EXCEEDED",
            {"info_uri": "https://x/"},
        ),
    ],
)
def test_error_tells_its_code_and_the_fields_that_the_spec_gives_it(
    error: MatrixError, errcode: str, fields: dict[str, Any]
) -> None:
    assert (error.errcode, error.fields) == (errcode, fields)
    assert str(error) == error.message
