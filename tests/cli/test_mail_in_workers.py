"""A mail server that does not answer holds up nobody but who waits for the mail."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.fakes.smtp_server import receiving_mail
from tests.server import start_server


def test_worker_serves_others_while_a_mail_waits(tmp_path: Path) -> None:
    with receiving_mail() as mail:
        mail.silent = True
        email = {
            "smtp_host": "127.0.0.1",
            "smtp_port": mail.port,
            "smtp_tls": "none",
            "from": "a@x.example",
        }
        with start_server(tmp_path, web_workers=1, email=email) as server:
            answers: list[tuple[int, Any]] = []

            def ask(number: int) -> None:
                body = {
                    "client_secret": f"s{number}",
                    "email": f"p{number}@x.example",
                    "send_attempt": 1,
                }
                path = "/_matrix/client/v3/register/email/requestToken"
                answers.append(server.request("POST", path, body, timeout_s=120))

            asking = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
            for one in asking:
                one.start()
            assert mail.connected.wait(60)
            assert server.request("GET", "/_matrix/client/versions")[0] == 200
            assert server.request("GET", "/health")[0] == 200
            # All were answered while the mails still waited.
            assert answers == []
            mail.hang_up()
            for one in asking:
                one.join(60)
            assert [status for status, _ in answers] == [502] * 3
