"""The page at `/` that shows the server runs, and GET /health."""

from __future__ import annotations

import html
from collections.abc import Callable

import falcon

from architex.domain.errors import DatabaseUnavailable

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{server_name} &middot; Architex</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 1.05rem/1.6 system-ui, sans-serif; max-width: 38rem; margin: 12vh auto; padding: 0 1.5rem; }}
  h1 {{ font-weight: 600; margin-bottom: 0; }}
  p.state {{ margin-top: 0; opacity: .75; }}
  p.state::before {{ content: "●"; color: #2a9d5c; margin-right: .5em; }}
  code {{ background: color-mix(in srgb, currentColor 10%, transparent); padding: .1em .35em; border-radius: .3em; }}
  li {{ margin: .4em 0; }}
</style>
</head>
<body>
<h1>{server_name}</h1>
<p class="state">This Matrix homeserver is running. Architex {version}</p>
<p>To use it, enter <code>{base_url}</code> as the homeserver in a Matrix client.</p>
<ul>
  <li><a href="https://matrix.org/ecosystem/clients/">Matrix clients</a></li>
  <li><a href="https://spec.matrix.org/v1.19/">The Matrix specification</a></li>
  <li><a href="/_matrix/client/versions">What this server speaks</a></li>
  <li><a href="/health">Its health</a></li>
</ul>
<p>The documentation of Architex lies beside its program: <code>README.md</code> and <code>docs/</code>.</p>
</body>
</html>
"""  # noqa: E501 - CSS reads better in one line per rule

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"


class WelcomePage:
    """GET /: says to a person with a browser that the server runs, and where to read on."""

    def __init__(self, *, server_name: str, version: str, base_url: str) -> None:
        self._page = _PAGE.format(
            server_name=html.escape(server_name),
            version=html.escape(version),
            base_url=html.escape(base_url),
        )

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer the page; it runs no script and loads nothing."""
        response.content_type = falcon.MEDIA_HTML
        response.text = self._page
        response.set_header("Content-Security-Policy", _POLICY)
        response.set_header("X-Content-Type-Options", "nosniff")


class Health:
    """GET /health: 200 when the server can serve, 503 when its database does not answer."""

    def __init__(self, ask_database: Callable[[], object]) -> None:
        """Take what asks the database something cheap; it raises DatabaseUnavailable in vain."""
        self._ask_database = ask_database

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer OK, or 503 and what is wrong, as plain text."""
        response.content_type = falcon.MEDIA_TEXT
        response.set_header("Cache-Control", "no-store")
        try:
            self._ask_database()
        except DatabaseUnavailable as error:
            response.status = falcon.HTTP_503
            response.text = f"{error.message}\n"
            return
        response.text = "OK\n"
