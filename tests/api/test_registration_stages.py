"""Stages of registration that an operator asks for: captcha, terms, a token, an e-mail address.

Spec: https://spec.matrix.org/v1.19/client-server-api/#authentication-types
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import falcon.testing
import pytest

from architex.settings import (
    EmailSettings,
    OutboundSettings,
    RateLimitSettings,
    RecaptchaSettings,
    RegistrationSettings,
    TermsSettings,
    load_settings,
)
from architex.storage.accounts import AccountStore
from architex.storage.start_refusal import StartRefused
from architex.usecases.registration import RegistrationPolicy
from tests.api.client import PASSWORD, Answer, Server, settings_for, start_server, stop_server
from tests.federation.authority import Authority
from tests.gateways.loopback import Loopback, reply, serving

CAPTCHA, TERMS = "m.login.recaptcha", "m.login.terms"
DUMMY, EMAIL, TOKEN = "m.login.dummy", "m.login.email.identity", "m.login.registration_token"

Start = Callable[..., Server]


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start a server with some settings."""
    started: list[Server] = []

    def begin(*, registration: dict[str, Any] | None = None, **changes: Any) -> Server:
        settings = RegistrationSettings(
            enabled=True, weak_password_hashing=True, **(registration or {})
        )
        limits = RateLimitSettings(enabled=False)
        changes = {"rate_limits": limits, "registration": settings, **changes}
        started.append(start_server(database_url, settings_for(tmp_path, **changes)))
        return started[-1]

    yield begin
    for one in started:
        stop_server(one)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def captcha(authority: Authority, verifier: Loopback, *, required: bool = True) -> dict[str, Any]:
    """Settings by which captchas are verified there."""
    return {
        "outbound": OutboundSettings(ca_file=authority.ca_file, ip_blocklist=()),
        "recaptcha": RecaptchaSettings(
            public_key='site"key',
            private_key="s3cret&",
            required=required,
            siteverify_url=f"https://127.0.0.1:{verifier.port}/siteverify",
        ),
    }


def register(server: Server, auth: dict[str, Any] | None = None) -> Answer:
    body: dict[str, Any] = {"password": PASSWORD}
    return server.request("POST", "/register", body if auth is None else {**body, "auth": auth})


def stages(answer: Answer) -> list[list[str]]:
    assert answer.status == 401
    return [flow["stages"] for flow in answer.json["flows"]]


def browse(server: Server, method: str, stage: str, session: str, **form: str) -> Any:
    path = f"/_matrix/client/v3/auth/{stage}/fallback/web"
    return falcon.testing.simulate_request(
        server.app,
        method,
        path,
        params={"session": session},
        body=urlencode(form) if method == "POST" else None,
        extras={"RAW_URI": path},
    )


def test_captcha_is_solved_before_registering(start: Start, authority: Authority) -> None:
    with serving(reply(b'{"success": true}'), authority.issue("127.0.0.1")) as verifier:
        server = start(**captcha(authority, verifier))
        begun = register(server)
        assert stages(begun) == [[CAPTCHA]]
        assert begun.json["params"] == {CAPTCHA: {"public_key": 'site"key'}}
        register(server, {"type": DUMMY}).refused(401, "M_FORBIDDEN")
        session = begun.json["session"]
        register(server, {"type": CAPTCHA, "response": "a=b", "session": session}).ok()
    (asked,) = verifier.requests
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(asked.body.decode()) == {"secret": ["s3cret&"], "response": ["a=b"]}


@pytest.mark.parametrize(
    "answer",
    [
        reply(b'{"success": false, "error-codes": []}'),
        reply(b'{"success": "true"}'),
        reply(b"[true]"),
        reply(b"true"),
        reply(b"no JSON"),
        reply(b'{"success": true}', 500),
        reply(b'{"success": true}' + b" " * 100_000),
        reply(b"", 302, "Location: https://elsewhere.example/\r\n"),
    ],
)
def test_captcha_counts_only_when_its_maker_says_so(
    start: Start, authority: Authority, answer: Any
) -> None:
    with serving(answer, authority.issue("127.0.0.1")) as verifier:
        server = start(**captcha(authority, verifier))
        refused = register(server, {"type": CAPTCHA, "response": "x"})
        assert (refused.status, refused.json["completed"]) == (401, [])
        assert "user_id" not in refused.json


@pytest.mark.parametrize("response", [None, "", 5, []])
def test_captcha_without_a_response_is_refused(
    start: Start, authority: Authority, response: Any
) -> None:
    with serving(reply(b'{"success": true}'), authority.issue("127.0.0.1")) as verifier:
        server = start(**captcha(authority, verifier))
        register(server, {"type": CAPTCHA, "response": response}).refused(400, "M_BAD_JSON")
    assert verifier.requests == []


def test_captcha_that_nobody_needs_counts_all_the_same(start: Start, authority: Authority) -> None:
    with serving(reply(b'{"success": true}'), authority.issue("127.0.0.1")) as verifier:
        server = start(**captcha(authority, verifier, required=False))
        done = register(server, {"type": CAPTCHA, "response": "x"})
        assert stages(done) == [[DUMMY]]
        assert done.json["completed"] == [CAPTCHA]
        register(server, {"type": DUMMY, "session": done.json["session"]}).ok()
        register(server, {"type": DUMMY}).ok()


def test_captcha_is_solved_in_a_browser(start: Start, authority: Authority) -> None:
    with serving(reply(b'{"success": true}'), authority.issue("127.0.0.1")) as verifier:
        server = start(**captcha(authority, verifier))
        session = register(server).json["session"]
        page = browse(server, "GET", CAPTCHA, session)
        assert 'data-sitekey="site&quot;key"' in page.text
        assert "https://www.google.com/recaptcha/" in page.headers["content-security-policy"]
        done = browse(server, "POST", CAPTCHA, session, **{"g-recaptcha-response": "solved"})
        assert "onAuthDone" in done.text
        register(server, {"session": session}).ok()


def test_terms_are_agreed_to(start: Start) -> None:
    server = start(terms=TermsSettings(url="https://x.example/t?a&b", name="<Rules>", version="2"))
    begun = register(server)
    assert stages(begun) == [[TERMS]]
    document = {"version": "2", "en": {"name": "<Rules>", "url": "https://x.example/t?a&b"}}
    assert begun.json["params"] == {TERMS: {"policies": {"terms_of_service": document}}}
    page = browse(server, "GET", TERMS, begun.json["session"])
    assert 'href="https://x.example/t?a&amp;b"' in page.text
    assert "&lt;Rules&gt;" in page.text
    assert "google" not in page.headers["content-security-policy"]
    told = register(server, {"type": TERMS, "session": begun.json["session"]}).ok()
    # It is kept which version that was.
    account = AccountStore(server.core.database).find_account(told["user_id"])
    assert account is not None
    assert account.agreed_terms == "2"


@pytest.mark.parametrize("stage", [CAPTCHA, TERMS, EMAIL])
def test_stages_that_are_not_asked_for_have_no_page_and_count_for_nothing(
    start: Start, stage: str
) -> None:
    server = start()
    begun = register(server)
    assert (stages(begun), begun.json["params"]) == ([[DUMMY]], {})
    assert browse(server, "GET", stage, begun.json["session"]).status_code == 404
    refused = register(server, {"type": stage, "session": begun.json["session"]})
    assert (refused.status, refused.json["completed"]) == (401, [])


def test_all_that_is_asked_for_is_done_in_order(start: Start) -> None:
    email = EmailSettings(smtp_host="127.0.0.1", smtp_port=1, sender="a@x.example")
    server = start(
        email=email,
        terms=TermsSettings(url="https://x.example/"),
        registration={"tokens_required": True},
    )
    assert stages(register(server)) == [[TERMS, TOKEN, DUMMY], [TERMS, TOKEN, EMAIL]]
    register(server, {"type": DUMMY}).refused(401, "M_FORBIDDEN")


@pytest.mark.parametrize("emails", [False, True])
@pytest.mark.parametrize("email_required", [False, True])
@pytest.mark.parametrize("captcha", [None, False, True])
@pytest.mark.parametrize("terms", [None, "1"])
@pytest.mark.parametrize("tokens_required", [False, True])
def test_no_flow_is_the_beginning_of_another(
    emails: bool,
    email_required: bool,
    captcha: bool | None,
    terms: str | None,
    tokens_required: bool,
) -> None:
    policy = RegistrationPolicy(
        enabled=True,
        tokens_required=tokens_required,
        emails=emails,
        email_required=email_required and emails,
        captcha=captcha,
        terms=terms,
    )
    flows = [tuple(flow) for flow in policy.flows()]
    assert flows
    assert all(flows)
    for one, other in itertools.permutations(flows, 2):
        assert other[: len(one)] != one
    if email_required and emails:
        assert all(EMAIL in flow for flow in flows)


def test_address_is_needed_only_where_it_can_be_confirmed(tmp_path: Path) -> None:
    config = tmp_path / "architex.toml"
    config.write_text("[registration]\nemail_required = true\n")
    with pytest.raises(StartRefused, match="email"):
        load_settings(config, environment={})
