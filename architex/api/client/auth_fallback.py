"""Stages of user-interactive authentication in a browser, for clients that do not know them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#fallback
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import falcon

from architex.api.requests import read_body, string_param
from architex.domain.errors import Forbidden, MatrixError, MissingParam, NotFound
from architex.usecases.interactive_auth import (
    DUMMY,
    PASSWORD,
    REGISTRATION_TOKEN,
    InteractiveAuth,
    StageFailed,
)

MAX_FORM_BYTES: Final = 8192

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Authentication</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 1.05rem/1.6 system-ui, sans-serif; max-width: 24rem; margin: 12vh auto; }}
  label, input, button {{ display: block; width: 100%; box-sizing: border-box; }}
  input, button {{ font: inherit; padding: .4em; margin: .2em 0 1em; }}
  [role=alert] {{ color: #c0392b; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""

# The script is the spec's own.
_DONE: Final = _PAGE.format(
    body="""<p>Thank you. You may close this window.</p>
<script>
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
</script>"""
)

_FIELDS: Final[Mapping[str, str]] = {
    DUMMY: "",
    PASSWORD: """<label for="user">User name</label>
<input id="user" name="user" autocomplete="username" required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>""",
    REGISTRATION_TOKEN: """<label for="token">Registration token</label>
<input id="token" name="token" autocomplete="off" required>""",
}

_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class AuthFallbackResource:
    """GET and POST /auth/{authType}/fallback/web."""

    def __init__(self, interactive_auth: InteractiveAuth) -> None:
        self._interactive_auth = interactive_auth

    def on_get(self, req: falcon.Request, resp: falcon.Response, auth_type: str) -> None:
        """The form of a stage; or thanks, when it is complete."""
        session_id = _session_id(req)
        if auth_type not in _FIELDS:
            raise NotFound("This server has no page for this type of authentication.")
        done = self._interactive_auth.is_completed_elsewhere(session_id, auth_type)
        _answer(resp, _DONE if done else _form(auth_type))

    def on_post(self, req: falcon.Request, resp: falcon.Response, auth_type: str) -> None:
        """Try to complete the stage with what was filled in."""
        session_id = _session_id(req)
        try:
            self._interactive_auth.complete_elsewhere(session_id, auth_type, _form_fields(req))
        except StageFailed as failure:
            resp.status = falcon.HTTP_401
            _answer(resp, _form(auth_type, failure.message))
        except Forbidden as error:
            resp.status = falcon.HTTP_403
            _answer(resp, _form(auth_type, error.message))
        else:
            _answer(resp, _DONE)


def _session_id(req: falcon.Request) -> str:
    session_id = string_param(req, "session")
    if not session_id:
        raise MissingParam("Missing: session.")
    return session_id


def _form_fields(req: falcon.Request) -> dict[str, Any]:
    try:
        return dict(
            parse_qsl(
                read_body(req, MAX_FORM_BYTES).decode(),
                keep_blank_values=True,
                max_num_fields=20,
            )
        )
    except ValueError:
        raise MatrixError("The form cannot be read.") from None


def _form(auth_type: str, problem: str | None = None) -> str:
    # Without an action the form comes back to this very address, session included.
    alert = "" if problem is None else f'<p role="alert">{html.escape(problem)}</p>\n'
    inside = f"{alert}{_FIELDS[auth_type]}\n<button>Continue</button>"
    return _PAGE.format(body=f'<form method="post">\n{inside}\n</form>')


def _answer(resp: falcon.Response, page: str) -> None:
    resp.content_type = falcon.MEDIA_HTML
    resp.text = page
    resp.set_header("Content-Security-Policy", _POLICY)
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Cache-Control", "no-store")
    resp.set_header("Referrer-Policy", "no-referrer")
