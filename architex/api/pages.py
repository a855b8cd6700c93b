"""The pages that people see in a browser: one look, and nothing of others in them."""

from __future__ import annotations

import html
from typing import Final

import falcon

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 1.05rem/1.6 system-ui, sans-serif; max-width: 26rem; margin: 12vh auto;
         padding: 0 1rem; }}
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

_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; {more}form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)


def page(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: as text.
        body: as HTML.
    """
    return _PAGE.format(title=html.escape(title), body=body)


def answer_page(resp: falcon.Response, text: str, *, policy: str = "") -> None:
    """Answer with a page, which no cache keeps and no frame shows.

    Args:
        policy: what it may do beyond having a style: directives of a Content-Security-Policy,
            without a semicolon at the end.
    """
    resp.content_type = falcon.MEDIA_HTML
    resp.text = text
    resp.set_header("Content-Security-Policy", _POLICY.format(more=policy and f"{policy}; "))
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.set_header("Cache-Control", "no-store")
    resp.set_header("Referrer-Policy", "no-referrer")
