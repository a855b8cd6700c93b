"""`architex email test` tells whether the mail server takes mails."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from architex.cli.main import main
from tests.fakes.smtp_server import receiving_mail


def run(directory: Path, address: str, email: str) -> Result:
    config = directory / "architex.toml"
    config.write_text(f'server_name = "test.example"\n{email}')
    return CliRunner().invoke(main, ["email", "test", address, "--config", str(config)])


def section(port: int) -> str:
    return (
        f'[email]\nsmtp_host = "127.0.0.1"\nsmtp_port = {port}\nsmtp_tls = "none"\n'
        'from = "hs@test.example"\n'
    )


def test_mail_is_sent(tmp_path: Path) -> None:
    with receiving_mail() as mail:
        result = run(tmp_path, "Admin@x.example", section(mail.port))
        assert result.exit_code == 0, result.output
        sent = mail.last_to("admin@x.example")
    assert "test.example" in sent.message["Subject"]


def test_what_the_mail_server_says_is_told(tmp_path: Path) -> None:
    with receiving_mail() as mail:
        mail.refusal = "550 who is that?"
        result = run(tmp_path, "admin@x.example", section(mail.port))
    assert result.exit_code == 1
    assert "550" in result.output
    assert "who is that?" in result.output


@pytest.mark.parametrize(
    ("address", "email", "said"),
    [("admin@x.example", "", "[email]"), ("nobody", section(1), "no e-mail address")],
)
def test_mistakes_are_named(tmp_path: Path, address: str, email: str, said: str) -> None:
    result = run(tmp_path, address, email)
    assert result.exit_code == 1
    assert said in result.output
