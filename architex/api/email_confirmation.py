"""The page that the links of our mails lead to."""

from __future__ import annotations

import html
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import falcon

from architex.api.pages import answer_page, page
from architex.api.requests import read_body, string_param
from architex.domain.errors import NotFound
from architex.usecases.email_validation import Confirmation, EmailValidations

_MAX_FORM_BYTES: Final = 4096


class EmailConfirmationResource:
    """GET and POST of the page."""

    def __init__(self, emails: EmailValidations) -> None:
        self._emails = emails

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Confirm, or ask first: what takes over an account is not done by opening a link.

        Spec: https://spec.matrix.org/v1.19/identity-service-api/#email-associations
        """
        session_id = string_param(req, "sid") or ""
        token = string_param(req, "token") or ""
        try:
            found = self._emails.look_at(session_id, token)
            if not found.needs_click:
                _thank(resp, self._emails.confirm(session_id, token))
                return
        except NotFound as error:
            _refuse(resp, error)
            return
        form = (
            "<p>Somebody, hopefully you, wants a new password for your account.</p>\n"
            '<form method="post">\n'
            f'<input type="hidden" name="sid" value="{html.escape(session_id)}">\n'
            f'<input type="hidden" name="token" value="{html.escape(token)}">\n'
            "<p><button>Allow the new password</button></p>\n</form>\n"
            "<p>If it was not you, close this window.</p>"
        )
        _answer(resp, "A new password?", form)

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Confirm what was asked about."""
        try:
            given = dict(parse_qsl(read_body(req, _MAX_FORM_BYTES).decode(), max_num_fields=10))
        except ValueError:
            given = {}
        try:
            confirmed = self._emails.confirm(given.get("sid", ""), given.get("token", ""))
        except NotFound as error:
            _refuse(resp, error)
        else:
            _thank(resp, confirmed)


def _thank(resp: falcon.Response, confirmed: Confirmation) -> None:
    link = confirmed.next_link
    body = "<p>Thank you. Go back to where you came from; you may close this window.</p>"
    if link is not None:
        # Named: whoever caused the mail has chosen where it leads.
        host = html.escape(urlsplit(link).netloc)
        body += f'\n<p><a rel="noreferrer" href="{html.escape(link)}">Go on to {host}</a></p>'
    _answer(resp, "Your e-mail address is confirmed", body)
    if link is not None and confirmed.may_redirect:
        resp.status = falcon.HTTP_303
        resp.location = link


def _refuse(resp: falcon.Response, error: NotFound) -> None:
    _answer(resp, "This link does not work", f"<p>{html.escape(error.message)}</p>")
    resp.status = falcon.HTTP_404


def _answer(resp: falcon.Response, title: str, body: str) -> None:
    answer_page(resp, page(title, f"<h1>{title}</h1>\n{body}"))
