"""The page that logs somebody in for a client that knows none of the ways to.

Spec: https://spec.matrix.org/v1.19/client-server-api/#login-fallback
"""

from __future__ import annotations

from typing import Final

import falcon

from architex.api.pages import answer_page, page

LOGIN_FALLBACK_PATH: Final = "/_matrix/static/client/login/"

# Whatever the page's address says besides credentials goes along with the login.
_BODY: Final = """<h1>Log in</h1>
<p role="alert"></p>
<form>
<label for="user">User name or e-mail address</label>
<input id="user" name="user" autocomplete="username" required>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button>
</form>
<noscript><p>This page needs JavaScript.</p></noscript>
<script>
"use strict";
const form = document.querySelector("form");
const problem = document.querySelector("[role=alert]");
const given = new URLSearchParams(location.search);

function requestBody(user, password) {
    const isAddress = user.includes("@") && !user.startsWith("@");
    const body = {
        type: "m.login.password",
        identifier: isAddress
            ? {type: "m.id.thirdparty", medium: "email", address: user}
            : {type: "m.id.user", user: user},
        password: password,
    };
    for (const name of ["device_id", "initial_device_display_name"]) {
        if (given.has(name)) body[name] = given.get(name);
    }
    if (given.get("refresh_token") === "true") body.refresh_token = true;
    return JSON.stringify(body);
}

form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.textContent = "";
    const fields = form.elements;
    let response;
    try {
        const answer = await fetch(
            location.pathname.split("/_matrix/")[0] + "/_matrix/client/v3/login",
            {
                method: "POST",
                headers: {"Content-Type": "application/json"},
                body: requestBody(fields.user.value, fields.password.value),
            }
        );
        response = await answer.json();
        if (!answer.ok) {
            problem.textContent = response.error;
            return;
        }
    } catch (error) {
        problem.textContent = "The server does not answer.";
        return;
    }
    form.remove();
    document.querySelector("h1").textContent = "You are logged in";
    if (window.matrixLogin && window.matrixLogin.onLogin) {
        window.matrixLogin.onLogin(response);
    }
});
</script>"""


class LoginFallbackResource:
    """GET /_matrix/static/client/login/."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The page."""
        answer_page(
            resp, page("Log in", _BODY), policy="script-src 'unsafe-inline'; connect-src 'self'"
        )
