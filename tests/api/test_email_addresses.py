"""E-mail addresses of accounts: proven by mail, good for registering, logging in, new passwords.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import falcon.testing
import pytest

from architex.settings import EmailSettings, RateLimitSettings
from architex.storage.pool import Database
from tests.api.client import (
    PASSWORD,
    Answer,
    Server,
    User,
    settings_for,
    start_server,
    stop_server,
)
from tests.fakes.smtp_server import SmtpServer, receiving_mail

BASE_URL = "https://matrix.test.example"
REGISTER = "/register/email/requestToken"
RESET = "/account/password/email/requestToken"
ADD = "/account/3pid/email/requestToken"

_numbers = itertools.count()


@pytest.fixture(scope="module")
def mail() -> Iterator[SmtpServer]:
    """The mail server."""
    with receiving_mail() as started:
        yield started


@pytest.fixture(scope="module")
def server(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory, mail: SmtpServer
) -> Iterator[Server]:
    """A server that sends mails."""
    started = start_server(
        module_database_url,
        settings_for(
            tmp_path_factory.mktemp("server"),
            public_base_url=BASE_URL,
            rate_limits=RateLimitSettings(enabled=False),
            email=email_settings(mail),
        ),
    )
    yield started
    stop_server(started)


def email_settings(mail: SmtpServer) -> EmailSettings:
    return EmailSettings(
        smtp_host="127.0.0.1", smtp_port=mail.port, smtp_tls="none", sender="hs@test.example"
    )


@pytest.fixture
def address() -> str:
    """An address that nobody has yet."""
    return f"person{next(_numbers)}@mail.example"


def ask(server: Server, path: str, address: str, **more: Any) -> Answer:
    body = {"client_secret": "s3cret", "email": address, "send_attempt": 1, **more}
    return server.request("POST", path, body)


def open_link(server: Server, link: str, method: str = "GET", **options: Any) -> Any:
    """Follow a link as a browser does."""
    assert link.startswith(BASE_URL + "/"), link
    parts = urlsplit(link)
    return falcon.testing.simulate_request(
        server.app,
        method,
        parts.path,
        query_string=parts.query,
        extras={"RAW_URI": parts.path, "REMOTE_ADDR": "127.0.0.1"},
        **options,
    )


def prove(
    server: Server, mail: SmtpServer, path: str, address: str, **more: Any
) -> dict[str, str]:
    """Ask for a mail and follow its link; the proof for the server."""
    session_id = ask(server, path, address, **more).ok()["sid"]
    link = mail.last_to(address).link
    page = open_link(server, link)
    assert page.status_code == 200
    if path == RESET:
        form = dict(parse_qsl(urlsplit(link).query))
        assert post_form(server, form).status_code == 200
    return {"sid": session_id, "client_secret": more.get("client_secret", "s3cret")}


def post_form(server: Server, form: dict[str, str]) -> Any:
    return open_link(server, f"{BASE_URL}/_architex/email/confirm", "POST", body=urlencode(form))


def email_stage(proof: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"type": "m.login.email.identity", "threepid_creds": proof, **more}


def add_address(user: User, mail: SmtpServer, address: str) -> None:
    proof = prove(user.server, mail, ADD, address, client_secret=f"s{next(_numbers)}")
    user.post("/account/3pid/add", {**proof, "auth": user.password_auth()}).ok()


def addresses_of(user: User) -> list[str]:
    return [told["address"] for told in user.get("/account/3pid").ok()["threepids"]]


def log_in(server: Server, address: str, password: str = PASSWORD) -> Answer:
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": address}
    body = {"type": "m.login.password", "identifier": identifier, "password": password}
    return server.request("POST", "/login", body)


def new_password(server: Server, auth: dict[str, Any], password: str = "new one") -> Answer:
    body = {"new_password": password, "auth": auth}
    return server.request("POST", "/account/password", body)


# ---- registering


def test_account_is_made_with_an_address(server: Server, mail: SmtpServer, address: str) -> None:
    body = {"username": f"mailer{next(_numbers)}", "password": PASSWORD}
    begun = server.request("POST", "/register", body)
    assert begun.status == 401
    assert {"stages": ["m.login.email.identity"]} in begun.json["flows"]
    proof = prove(server, mail, REGISTER, address)
    auth = email_stage(proof, session=begun.json["session"])
    told = server.request("POST", "/register", {**body, "auth": auth}).ok()
    user = User(server, told["user_id"], told["access_token"], told["device_id"])
    assert addresses_of(user) == [address]
    # The same request again leads to the same account.
    again = server.request("POST", "/register", {**body, "auth": auth}).ok()
    assert again["user_id"] == user.user_id


def test_client_asks_again_until_the_mail_was_read(
    server: Server, mail: SmtpServer, address: str
) -> None:
    body = {"username": f"mailer{next(_numbers)}", "password": PASSWORD}
    session = server.request("POST", "/register", body).json["session"]
    proof = {"sid": ask(server, REGISTER, address).ok()["sid"], "client_secret": "s3cret"}
    auth = email_stage(proof, session=session)
    for _ in range(3):
        waiting = server.request("POST", "/register", {"auth": auth})
        assert (waiting.status, waiting.json["completed"]) == (401, [])
        assert waiting.errcode == "M_UNAUTHORIZED"
    open_link(server, mail.last_to(address).link)
    server.request("POST", "/register", {"auth": auth}).ok()


def test_proof_makes_one_account(server: Server, mail: SmtpServer, address: str) -> None:
    proof = prove(server, mail, REGISTER, address)
    for number, status in enumerate((200, 401)):
        body = {
            "username": f"once{next(_numbers)}",
            "password": PASSWORD,
            "auth": email_stage(proof),
        }
        assert server.request("POST", "/register", body).status == status, number


def test_proof_needs_the_secret_of_who_asked(
    server: Server, mail: SmtpServer, address: str
) -> None:
    proof = prove(server, mail, REGISTER, address)
    auth = email_stage({**proof, "client_secret": "another"})
    body = {"username": f"thief{next(_numbers)}", "password": PASSWORD, "auth": auth}
    assert server.request("POST", "/register", body).status == 401


@pytest.mark.parametrize(
    "given", [None, [], "x", {}, {"sid": 1}, {"sid": "a\0", "client_secret": "\0"}]
)
def test_odd_credentials_are_refused(server: Server, given: Any) -> None:
    auth = {"type": "m.login.email.identity", "threepid_creds": given}
    refused = server.request("POST", "/register", {"password": "x", "auth": auth})
    assert refused.status in (400, 401)


def test_proof_for_one_thing_is_good_for_no_other(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    for_account = prove(server, mail, REGISTER, address)
    body = {**for_account, "auth": alice.password_auth()}
    alice.post("/account/3pid/add", body).refused(403, "M_THREEPID_AUTH_FAILED")
    add_address(alice, mail, address)
    assert new_password(server, email_stage(for_account)).status == 401


# ---- who has which address


def test_address_of_an_account_can_log_in(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    assert addresses_of(alice) == [address]
    told = alice.get("/account/3pid").ok()["threepids"][0]
    assert told["medium"] == "email"
    assert told["validated_at"] <= told["added_at"]
    assert log_in(server, address).ok()["user_id"] == alice.user_id
    assert log_in(server, address.upper()).ok()["user_id"] == alice.user_id
    old = {"type": "m.login.password", "medium": "email", "address": address}
    server.request("POST", "/login", {**old, "password": PASSWORD}).ok()
    log_in(server, address, "wrong").refused(403, "M_FORBIDDEN")


def test_unknown_address_and_wrong_password_look_alike(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    known = log_in(server, address, "wrong").refused(403, "M_FORBIDDEN")
    assert log_in(server, "nobody@mail.example", "wrong").refused(403, "M_FORBIDDEN") == known


def test_address_is_one_accounts(
    server: Server, mail: SmtpServer, alice: User, bob: User, address: str
) -> None:
    proofs = [
        prove(server, mail, ADD, address, client_secret=secret) for secret in ("alice", "bob")
    ]
    alice.post("/account/3pid", {"three_pid_creds": proofs[0]}).ok()
    body = {**proofs[1], "auth": bob.password_auth()}
    bob.post("/account/3pid/add", body).refused(400, "M_THREEPID_IN_USE")
    assert addresses_of(bob) == []


def test_adding_an_address_needs_the_password(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    proof = prove(server, mail, ADD, address)
    begun = alice.post("/account/3pid/add", proof)
    assert (begun.status, begun.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    assert addresses_of(alice) == []
    auth = alice.password_auth(session=begun.json["session"])
    alice.post("/account/3pid/add", {**proof, "auth": auth}).ok()
    assert addresses_of(alice) == [address]


def test_address_without_a_followed_link_is_not_added(
    server: Server, alice: User, address: str
) -> None:
    proof = {"sid": ask(server, ADD, address).ok()["sid"], "client_secret": "s3cret"}
    body = {**proof, "auth": alice.password_auth()}
    alice.post("/account/3pid/add", body).refused(403, "M_THREEPID_AUTH_FAILED")


def test_deleted_address_logs_nobody_in(
    server: Server, mail: SmtpServer, alice: User, bob: User, address: str
) -> None:
    add_address(alice, mail, address)
    wish = {"medium": "email", "address": address.upper()}
    bob.post("/account/3pid/delete", wish).ok()
    assert addresses_of(alice) == [address]
    told = alice.post("/account/3pid/delete", wish).ok()
    assert told == {"id_server_unbind_result": "no-support"}
    assert addresses_of(alice) == []
    log_in(server, address).refused(403, "M_FORBIDDEN")


def test_ended_account_frees_its_address(
    server: Server, mail: SmtpServer, alice: User, bob: User, address: str
) -> None:
    add_address(alice, mail, address)
    told = alice.post("/account/deactivate", {"auth": alice.password_auth()}).ok()
    assert told == {"id_server_unbind_result": "success"}
    log_in(server, address).refused(403, "M_FORBIDDEN")
    add_address(bob, mail, address)
    assert log_in(server, address).ok()["user_id"] == bob.user_id


def test_guests_have_no_addresses(server: Server) -> None:
    told = server.request("POST", "/register", {}, params={"kind": "guest"}).ok()
    for method in ("GET", "POST"):
        refused = server.request(method, "/account/3pid", {}, token=told["access_token"])
        refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN")


# ---- new passwords


def test_who_reads_the_mail_may_set_a_password(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    begun = server.request("POST", "/account/password", {"new_password": "new one"})
    assert {"stages": ["m.login.email.identity"]} in begun.json["flows"]
    proof = prove(server, mail, RESET, address)
    new_password(server, email_stage(proof, session=begun.json["session"])).ok()
    log_in(server, address, PASSWORD).refused(403, "M_FORBIDDEN")
    assert log_in(server, address, "new one").ok()["user_id"] == alice.user_id
    # Whoever had got in is out.
    alice.get("/account/whoami").refused(401, "M_UNKNOWN_TOKEN")
    # And the proof is good for one password.
    assert new_password(server, email_stage(proof), "third").status == 401


def test_locked_account_gets_no_new_password_by_mail(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    server.core.database.execute(
        "UPDATE users SET locked = true WHERE user_id = %s", (alice.user_id,)
    )
    proof = prove(server, mail, RESET, address)
    new_password(server, email_stage(proof)).refused(401, "M_USER_LOCKED")


def fallback(server: Server, session: str, form: dict[str, str] | None = None) -> Any:
    """The page of the stage, for a client that does not know it."""
    path = "/_matrix/client/v3/auth/m.login.email.identity/fallback/web"
    return falcon.testing.simulate_request(
        server.app,
        "GET" if form is None else "POST",
        path,
        params={"session": session},
        body=None if form is None else urlencode(form),
        extras={"RAW_URI": path, "REMOTE_ADDR": "127.0.0.1"},
    )


def test_address_is_proven_in_the_browser(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    begun = server.request("POST", "/account/password", {"new_password": "new one"})
    session = begun.json["session"]
    assert 'name="email"' in fallback(server, session).text
    assert fallback(server, session, {"email": "nobody"}).status_code == 400
    waiting = fallback(server, session, {"email": address})
    creds = dict(re.findall(r'name="(sid|client_secret)" value="([^"]+)"', waiting.text))
    early = fallback(server, session, creds)
    assert early.status_code == 401
    assert creds["sid"] in early.text
    link = mail.last_to(address).link
    post_form(server, dict(parse_qsl(urlsplit(link).query)))
    assert "window.onAuthDone()" in fallback(server, session, creds).text
    new_password(server, {"session": session}).ok()
    assert log_in(server, address, "new one").ok()["user_id"] == alice.user_id


def test_page_asks_for_no_address_where_none_is_needed(server: Server, alice: User) -> None:
    session = alice.delete("/devices/gone", {}).json["session"]
    for form in (None, {"email": "a@mail.example"}, {"sid": "a", "client_secret": "b"}):
        assert fallback(server, session, form).status_code == 404


def test_opening_the_link_alone_allows_no_new_password(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    proof = {"sid": ask(server, RESET, address).ok()["sid"], "client_secret": "s3cret"}
    page = open_link(server, mail.last_to(address).link)
    assert "<form" in page.text
    assert new_password(server, email_stage(proof)).status == 401
    alice.get("/account/whoami").ok()


def test_one_address_sets_no_other_users_password(
    server: Server, mail: SmtpServer, alice: User, bob: User, address: str
) -> None:
    add_address(alice, mail, address)
    proof = prove(server, mail, RESET, address)
    body = {"new_password": "x", "auth": email_stage(proof)}
    bob.post("/account/password", body).refused(403, "M_FORBIDDEN")
    bob.log_in_again()


def test_stage_of_a_session_remembers_whose_address_it_was(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    proof = prove(server, mail, RESET, address)
    begun = server.request("POST", "/account/password", {})
    auth = email_stage(proof, session=begun.json["session"])
    # The stage is complete, but something is missing; it need not be proven again.
    server.request("POST", "/account/password", {"auth": auth}).refused(400, "M_MISSING_PARAM")
    new_password(server, auth, "later").ok()
    log_in(server, address, "later").ok()


# ---- nobody learns who is here


@pytest.mark.parametrize("path", [REGISTER, RESET, ADD])
def test_answer_does_not_tell_whether_an_address_is_known(
    server: Server, mail: SmtpServer, alice: User, path: str
) -> None:
    known, unknown = f"known{next(_numbers)}@mail.example", f"unknown{next(_numbers)}@mail.example"
    add_address(alice, mail, known)
    before = len(mail.mails)
    answers = [ask(server, path, address) for address in (known, unknown)]
    assert [sorted(answer.ok()) for answer in answers] == [["sid"], ["sid"]]
    assert len({len(answer.json["sid"]) for answer in answers}) == 1
    assert len(mail.mails) == before + 2  # both take as long


def test_owner_of_a_known_address_is_told_and_nothing_is_proven(
    server: Server, mail: SmtpServer, alice: User, address: str
) -> None:
    add_address(alice, mail, address)
    for path in (REGISTER, ADD):
        session_id = ask(server, path, address).ok()["sid"]
        told = mail.last_to(address)
        assert "account" in told.message["Subject"]
        assert told.link == BASE_URL + "/"
        assert session_id not in told.text


def test_mail_goes_to_the_address_of_the_account_and_not_to_one_that_looks_like_it(
    server: Server, mail: SmtpServer, alice: User
) -> None:
    address = f"kelvin{next(_numbers)}@mail.example"
    add_address(alice, mail, address)
    lookalike = address.replace("k", "\N{KELVIN SIGN}")
    before = len(mail.mails)
    ask(server, RESET, lookalike).ok()
    assert [sent.recipient for sent in mail.mails[before:]] == [address]


# ---- mails


def test_mail_has_a_text_whose_first_link_confirms_and_html(
    server: Server, mail: SmtpServer, address: str
) -> None:
    ask(server, REGISTER, address).ok()
    sent = mail.last_to(address)
    assert sent.sender == "hs@test.example"
    assert sent.message["To"] == address
    assert sent.link.startswith(BASE_URL + "/_architex/email/confirm?sid=")
    assert sent.link.replace("&", "&amp;") in sent.html
    assert open_link(server, sent.link).status_code == 200


def test_repeated_attempt_sends_no_second_mail(
    server: Server, mail: SmtpServer, address: str
) -> None:
    before = len(mail.mails)
    first = ask(server, REGISTER, address).ok()
    assert ask(server, REGISTER, address).ok() == first
    assert len(mail.mails) == before + 1
    assert ask(server, REGISTER, address, send_attempt=2).ok() == first
    assert len(mail.mails) == before + 2
    # Mails overtake each other: every link holds.
    for sent in mail.mails[before:]:
        assert open_link(server, sent.link).status_code == 200
    other = ask(server, REGISTER, address, client_secret="other").ok()
    assert other["sid"] != first["sid"]


def test_only_the_mail_tells_the_token(
    server: Server, mail: SmtpServer, address: str, module_database: Database
) -> None:
    ask(server, REGISTER, address).ok()
    token = dict(parse_qsl(urlsplit(mail.last_to(address).link).query))["token"]
    rows = module_database.fetch_all("SELECT v::text FROM email_validations v")
    assert token not in str(rows)


@pytest.mark.parametrize(
    "email",
    ["", "x", "@x.example", "a@", "a b@x.example", "a@x.example\r\nBcc: b@x.example", "<a@x.e>",
     "a@x.example,b@x.example", "a@b@x.example", "-a@x.example", "a@x..example",
     "a" * 300 + "@x.example", "a@x.example?bcc=b", "Bob <a@x.example>", "a\0@x.example"],
)  # fmt: skip
def test_what_is_no_address_is_refused(server: Server, mail: SmtpServer, email: str) -> None:
    before = len(mail.mails)
    ask(server, REGISTER, email).refused(400, "M_INVALID_PARAM")
    assert len(mail.mails) == before


@pytest.mark.parametrize(
    "more",
    [{"client_secret": ""}, {"client_secret": "a b"}, {"client_secret": "x" * 256},
     {"send_attempt": -1}, {"send_attempt": 2**60}, {"next_link": "javascript:alert(1)"},
     {"next_link": "//evil.example"}, {"next_link": "https://a@evil.example/"},
     {"next_link": "https:evil"}, {"next_link": "https://x.example/\r\nA: b"},
     {"next_link": "http://[x"}, {"next_link": "https://x.example/" + "a" * 3000}],
)  # fmt: skip
def test_odd_parameters_are_refused(server: Server, address: str, more: dict[str, Any]) -> None:
    ask(server, REGISTER, address, **more).refused(400, "M_INVALID_PARAM")


def test_phone_numbers_are_not_supported(server: Server) -> None:
    body = {
        "client_secret": "x",
        "country": "GB",
        "phone_number": "07700900001",
        "send_attempt": 1,
    }
    for path in ("/register", "/account/password", "/account/3pid"):
        refused = server.request("POST", f"{path}/msisdn/requestToken", body)
        refused.refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")


def test_mail_server_that_refuses_or_fails_is_told_apart(
    server: Server, mail: SmtpServer, address: str
) -> None:
    try:
        mail.refusal = "550 no such user"
        ask(server, REGISTER, address).refused(400, "M_INVALID_PARAM")
        mail.refusal = "450 later"
        ask(server, REGISTER, address).refused(502, "M_UNKNOWN")
    finally:
        mail.refusal = None
    # The attempt may be made again.
    before = len(mail.mails)
    ask(server, REGISTER, address).ok()
    assert len(mail.mails) == before + 1


def test_capability_tells_that_addresses_can_change(alice: User) -> None:
    capabilities = alice.get("/capabilities").ok()["capabilities"]
    assert capabilities["m.3pid_changes"] == {"enabled": True}


# ---- the page


@pytest.mark.parametrize("query", ["", "sid=x", "sid=x&token=y", "sid=%00&token=%00"])
def test_unknown_links_confirm_nothing(server: Server, query: str) -> None:
    link = f"{BASE_URL}/_architex/email/confirm?{query}"
    assert open_link(server, link).status_code == 404
    assert post_form(server, dict(parse_qsl(query))).status_code == 404


def test_browser_goes_on_to_our_own_pages_and_is_shown_where_others_lead(
    server: Server, mail: SmtpServer, address: str
) -> None:
    own = BASE_URL + "/welcome?a=1&b=2"
    ask(server, REGISTER, address, next_link=own).ok()
    page = open_link(server, mail.last_to(address).link)
    assert (page.status_code, page.headers["location"]) == (303, own)
    ask(server, REGISTER, address, next_link='https://evil.example/"x', send_attempt=2).refused(
        400, "M_INVALID_PARAM"
    )
    ask(server, REGISTER, address, next_link="https://evil.example/?a&b", send_attempt=2).ok()
    page = open_link(server, mail.last_to(address).link)
    assert page.status_code == 200
    assert "location" not in page.headers
    assert 'href="https://evil.example/?a&amp;b"' in page.text
    assert "Go on to evil.example" in page.text


def test_page_runs_no_scripts_and_is_kept_nowhere(
    server: Server, mail: SmtpServer, address: str
) -> None:
    ask(server, REGISTER, address).ok()
    page = open_link(server, mail.last_to(address).link)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "<script" not in page.text


# ---- other servers


def test_server_without_mails_says_so(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = start_server(database_url, settings_for(tmp_path_factory.mktemp("server")))
    try:
        for path in (REGISTER, RESET, ADD):
            ask(server, path, "a@x.example").refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
        user = server.register()
        capabilities = user.get("/capabilities").ok()["capabilities"]
        assert capabilities["m.3pid_changes"] == {"enabled": False}
        begun = server.request("POST", "/account/password", {})
        assert begun.json["flows"] == [{"stages": ["m.login.password"]}]
    finally:
        stop_server(server)


def test_few_mails_are_sent_at_the_wish_of_one_client_or_to_one_address(
    database_url: str, tmp_path_factory: pytest.TempPathFactory, mail: SmtpServer
) -> None:
    settings = settings_for(tmp_path_factory.mktemp("server"), email=email_settings(mail))
    server = start_server(database_url, settings)
    try:
        before = len(mail.mails)
        answers = [
            ask(server, RESET, "victim@mail.example", client_secret=f"s{number}").status
            for number in range(15)
        ]
        assert answers == [200] * 10 + [429] * 5
        assert len(mail.mails) == before + 10
    finally:
        stop_server(server)


@pytest.mark.parametrize("trusted", ["app.example", "*"])
def test_browser_goes_on_without_asking_where_the_operator_says_so(
    database_url: str, tmp_path_factory: pytest.TempPathFactory, mail: SmtpServer, trusted: str
) -> None:
    email = replace(email_settings(mail), next_link_hosts=(trusted,))
    directory = tmp_path_factory.mktemp("server")
    settings = settings_for(directory, email=email, public_base_url=BASE_URL)
    server = start_server(database_url, settings)
    try:
        link = "https://app.example/#/register"
        ask(server, REGISTER, "hosts@mail.example", next_link=link).ok()
        page = open_link(server, mail.last_to("hosts@mail.example").link)
        assert (page.status_code, page.headers["location"]) == (303, link)
    finally:
        stop_server(server)
