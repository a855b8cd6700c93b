"""User-interactive authentication in HTTP: what is still to be done is a 401.

Spec: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-api-in-the-rest-api
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import falcon
import orjson

from architex.usecases.interactive_auth import AuthenticationRequired


@contextmanager
def interactive() -> Iterator[None]:
    """Around a use case that asks for authentication: answers 401 when stages are missing."""
    try:
        yield
    except AuthenticationRequired as required:
        raise falcon.HTTPStatus(401, text=orjson.dumps(required.body).decode()) from None
