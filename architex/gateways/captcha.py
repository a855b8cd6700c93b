"""CaptchaVerifier: asks the maker of a captcha whether somebody has solved it."""

from __future__ import annotations

from typing import Final, Protocol
from urllib.parse import urlencode

from architex.domain.canonical_json import parse_json
from architex.domain.errors import NotJson
from architex.gateways.errors import RemoteRefused, RemoteUnintelligible
from architex.gateways.http import OutboundHttp

_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 16_384
MAX_RESPONSE_LENGTH: Final = 8192
"""Of what a solved captcha gives, in characters."""


class CaptchaVerifier(Protocol):
    """Tells whether a captcha was solved."""

    def verify(self, response: str) -> bool:
        """Whether this is what a solved captcha gives.

        Raises:
            RemoteError: nobody can tell now.
        """


class Recaptcha:
    """See CaptchaVerifier: Google's.

    Spec: https://spec.matrix.org/v1.19/client-server-api/#google-recaptcha
    """

    def __init__(self, http: OutboundHttp, siteverify_url: str, private_key: str) -> None:
        self._http = http
        self._url = siteverify_url
        self._private_key = private_key

    def verify(self, response: str) -> bool:
        """See CaptchaVerifier. The client's address is not told."""
        if len(response) > MAX_RESPONSE_LENGTH:
            return False
        form = {"secret": self._private_key, "response": response}
        answer = self._http.fetch_url(
            "POST",
            self._url,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(form, errors="replace").encode(),
            timeout_s=_TIMEOUT_S,
            max_bytes=_MAX_BYTES,
        )
        if answer.status != 200:
            raise RemoteRefused(self._url, answer.status)
        try:
            told = parse_json(answer.body)
        except NotJson as error:
            raise RemoteUnintelligible(self._url, "The answer is not JSON.") from error
        return isinstance(told, dict) and told.get("success") is True
