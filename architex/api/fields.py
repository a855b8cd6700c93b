"""marshmallow fields for what marshmallow itself is too lenient about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow
from marshmallow import fields


class TrueOrFalse(fields.Field[bool]):
    """A JSON boolean, and nothing that merely looks like one."""

    default_error_messages = {"invalid": "Not true or false."}  # noqa: RUF012 - marshmallow's form

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class JsonObject(fields.Field[dict[str, Any]]):
    """A JSON object, taken as it is."""

    default_error_messages = {"invalid": "Not an object."}  # noqa: RUF012 - marshmallow's form

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        return value


class WholeNumber(fields.Field[int]):
    """A JSON number without a fraction, and nothing that merely looks like one."""

    default_error_messages = {"invalid": "Not a whole number."}  # noqa: RUF012 - marshmallow's form

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.make_error("invalid")
        return value


def refuse_nul(value: str) -> None:
    """Validate that a string holds no U+0000, which PostgreSQL's text cannot keep.

    Raises:
        ValidationError: it does.
    """
    if "\0" in value:
        raise marshmallow.ValidationError("Holds a NUL.")
