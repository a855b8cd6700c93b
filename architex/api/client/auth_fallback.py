"""Stages of user-interactive authentication in a browser, for clients that do not know them.

Spec: https://spec.matrix.org/v1.19/client-server-api/#fallback
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import falcon

from architex.api.authentication import client_address
from architex.api.pages import answer_page, page
from architex.api.requests import read_body, string_param
from architex.domain.errors import (
    Forbidden,
    InvalidParam,
    MatrixError,
    MissingParam,
    NotFound,
    UserDeactivated,
    UserLocked,
)
from architex.usecases.interactive_auth import (
    DUMMY,
    EMAIL,
    PASSWORD,
    RECAPTCHA,
    REGISTRATION_TOKEN,
    TERMS,
    InteractiveAuth,
    StageFailed,
)

MAX_FORM_BYTES: Final = 8192

# The script is the spec's own.
_DONE: Final = page(
    "Authentication",
    """<p>Thank you. You may close this window.</p>
<script>
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
</script>""",
)

_FIELDS: Final[Mapping[str, str]] = {
    DUMMY: "",
    PASSWORD: """<label for="user">User name</label>
<input id="user" name="user" autocomplete="username" required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>""",
    EMAIL: """<label for="email">E-mail address</label>
<input id="email" name="email" type="email" autocomplete="email" required>""",
    REGISTRATION_TOKEN: """<label for="token">Registration token</label>
<input id="token" name="token" autocomplete="off" required>""",
}

_CAPTCHA: Final = """<script src="https://www.google.com/recaptcha/api.js" async defer></script>
<div class="g-recaptcha" data-sitekey="{public_key}"></div>"""

_TERMS: Final = """<p>Please read <a href="{url}" target="_blank" rel="noreferrer">{name}</a>.</p>
<label><input name="agreed" type="checkbox" required> I agree to it.</label>"""

_WAITING: Final = """<p>Follow the link in the mail that comes to you. Then continue here.</p>
<input type="hidden" name="sid" value="{sid}">
<input type="hidden" name="client_secret" value="{client_secret}">"""

_GOOGLE: Final = "https://www.google.com/recaptcha/ https://www.gstatic.com/recaptcha/"


class AuthFallbackResource:
    """GET and POST /auth/{authType}/fallback/web."""

    def __init__(self, interactive_auth: InteractiveAuth) -> None:
        self._interactive_auth = interactive_auth

    def on_get(self, req: falcon.Request, resp: falcon.Response, auth_type: str) -> None:
        """The form of a stage; or thanks, when it is complete."""
        session_id = _session_id(req)
        fields = self._fields(auth_type)
        done = self._interactive_auth.is_completed_elsewhere(session_id, auth_type)
        _answer(resp, _DONE if done else _form(fields), auth_type)

    def on_post(self, req: falcon.Request, resp: falcon.Response, auth_type: str) -> None:
        """Try to complete the stage with what was filled in."""
        session_id = _session_id(req)
        fields = self._fields(auth_type)
        given = _form_fields(req)
        address = client_address(req)
        try:
            if auth_type == EMAIL and "email" in given:
                creds = self._interactive_auth.send_mail(
                    session_id, given["email"], address=address
                )
                _answer(resp, _form(_waiting(creds)), auth_type)
                return
            if auth_type == EMAIL:
                fields = _waiting(given)
                given = {"threepid_creds": given}
            self._interactive_auth.complete_elsewhere(
                session_id, auth_type, given, address=address
            )
        except InvalidParam as error:
            resp.status = falcon.HTTP_400
            _answer(resp, _form(fields, error.message), auth_type)
        except StageFailed as failure:
            resp.status = falcon.HTTP_401
            _answer(resp, _form(fields, failure.message), auth_type)
        except (Forbidden, UserDeactivated, UserLocked) as error:
            resp.status = falcon.HTTP_403
            _answer(resp, _form(fields, error.message), auth_type)
        else:
            _answer(resp, _DONE, auth_type)

    def _fields(self, auth_type: str) -> str:
        """What the form of a stage asks.

        Raises:
            NotFound: there is no form of it.
        """
        params = self._interactive_auth.params
        if auth_type == RECAPTCHA and auth_type in params:
            return _CAPTCHA.format(public_key=html.escape(str(params[RECAPTCHA]["public_key"])))
        if auth_type == TERMS and auth_type in params:
            documents = params[TERMS]["policies"].values()
            return "\n".join(
                _TERMS.format(**{key: html.escape(text) for key, text in document["en"].items()})
                for document in documents
            )
        if auth_type not in _FIELDS:
            raise NotFound("This server has no page for this type of authentication.")
        return _FIELDS[auth_type]


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


def _waiting(creds: Mapping[str, str]) -> str:
    """The form of whoever has been sent a mail."""
    return _WAITING.format(
        sid=html.escape(creds.get("sid", "")),
        client_secret=html.escape(creds.get("client_secret", "")),
    )


def _form(fields: str, problem: str | None = None) -> str:
    # Without an action the form comes back to this very address, session included.
    alert = "" if problem is None else f'<p role="alert">{html.escape(problem)}</p>\n'
    inside = f"{alert}{fields}\n<button>Continue</button>"
    return page("Authentication", f'<form method="post">\n{inside}\n</form>')


def _answer(resp: falcon.Response, text: str, auth_type: str) -> None:
    is_captcha = auth_type == RECAPTCHA
    scripts, frames = (_GOOGLE, _GOOGLE) if is_captcha else ("", "'none'")
    answer_page(resp, text, policy=f"script-src 'unsafe-inline' {scripts}; frame-src {frames}")
