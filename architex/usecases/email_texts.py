"""What our mails say. Nothing in them was written by whoever caused them to be sent."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

from architex.domain.identifiers import ServerName
from architex.gateways.email import Mail

_HTML: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body style="font: 16px/1.5 sans-serif; max-width: 34em; margin: 2em auto; padding: 0 1em">
{body}
</body>
</html>
"""


def confirm_new_account(to: str, server_name: ServerName, link: str) -> Mail:
    """For somebody who makes an account."""
    return _mail(
        to,
        f"Confirm your e-mail address for {server_name}",
        [f"Somebody, hopefully you, is making an account on {server_name} with this address."],
        link,
        "Confirm this address",
        ["If it was not you, do nothing: without this link the account does not come about."],
    )


def confirm_new_address(to: str, server_name: ServerName, link: str) -> Mail:
    """For somebody who adds the address to an account."""
    return _mail(
        to,
        f"Confirm your e-mail address for {server_name}",
        [f"Somebody, hopefully you, is adding this address to an account on {server_name}."],
        link,
        "Confirm this address",
        ["If it was not you, do nothing: do not follow the link."],
    )


def confirm_new_password(to: str, server_name: ServerName, link: str) -> Mail:
    """For somebody who does not know their password."""
    return _mail(
        to,
        f"A new password for {server_name}",
        [
            f"Somebody, hopefully you, wants a new password for the account on {server_name}"
            " that this address belongs to."
        ],
        link,
        "Allow the new password",
        ["If it was not you, do nothing. Whoever follows the link may lose the account."],
    )


def tell_of_account(to: str, server_name: ServerName, link: str) -> Mail:
    """For somebody whose address belongs to an account already.

    Args:
        link: of the server.
    """
    return _mail(
        to,
        f"You have an account on {server_name}",
        [
            f"Somebody, perhaps you, wanted to use this address on {server_name}. It belongs to"
            " an account there already, so nothing was done.",
            "If you have forgotten your password, ask for a new one where you log in.",
        ],
        link,
        server_name,
        ["If it was not you, you need not do anything."],
    )


def tell_of_no_account(to: str, server_name: ServerName, link: str) -> Mail:
    """For somebody who wants a new password and has no account.

    Args:
        link: of the server.
    """
    return _mail(
        to,
        f"There is no account on {server_name} with this address",
        [
            f"Somebody, perhaps you, wanted a new password on {server_name}. No account there"
            " has this address. Perhaps it was made with another one."
        ],
        link,
        server_name,
        ["If it was not you, you need not do anything."],
    )


def try_out(to: str, server_name: ServerName, link: str) -> Mail:
    """For an operator who wants to know whether mails arrive.

    Args:
        link: of the server.
    """
    return _mail(
        to,
        f"Mails of {server_name} arrive",
        [f"This is how mails of {server_name} look. They lead here:"],
        link,
        server_name,
        ["If that is not where clients reach the server, mend public_base_url."],
    )


def _mail(
    to: str, subject: str, before: Sequence[str], link: str, label: str, after: Sequence[str]
) -> Mail:
    """A mail with one link, in text and in HTML."""
    text = "\n\n".join([*before, f"{label}:", link, *after]) + "\n"
    paragraphs = [
        *(f"<p>{html.escape(line)}</p>" for line in before),
        f'<p><a href="{html.escape(link)}">{html.escape(label)}</a></p>',
        *(f"<p>{html.escape(line)}</p>" for line in after),
    ]
    page = _HTML.format(title=html.escape(subject), body="\n".join(paragraphs))
    return Mail(to, subject, text, page)
