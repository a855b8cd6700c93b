"""The table of what stands outside the versioned APIs: path template → resource."""

from __future__ import annotations

from architex.api.client.discovery import VersionsResource
from architex.api.client.media_routes import old_media_routes
from architex.api.email_confirmation import EmailConfirmationResource
from architex.api.federation.openid import UserInfoResource
from architex.api.login_fallback import LOGIN_FALLBACK_PATH, LoginFallbackResource
from architex.api.routing import Route
from architex.api.synapse_registration import SharedSecretRegistrationResource
from architex.api.well_known import (
    WellKnown,
    WellKnownClientResource,
    WellKnownServerResource,
    WellKnownSupportResource,
)
from architex.usecases.catalogue import UseCases
from architex.usecases.email_validation import CONFIRM_PATH


def server_routes(use_cases: UseCases, well_known: WellKnown) -> list[Route]:
    """Versions, well-known files, pages and the like, with their full paths."""
    return [
        Route("/_matrix/client/versions", VersionsResource()),
        Route("/.well-known/matrix/client", WellKnownClientResource(well_known)),
        Route("/.well-known/matrix/server", WellKnownServerResource(well_known)),
        Route("/.well-known/matrix/support", WellKnownSupportResource(well_known)),
        Route(LOGIN_FALLBACK_PATH, LoginFallbackResource()),
        *old_media_routes(use_cases),
        Route(CONFIRM_PATH, EmailConfirmationResource(use_cases.emails)),
        Route("/_matrix/federation/v1/openid/userinfo", UserInfoResource(use_cases.openid)),
        Route(
            "/_synapse/admin/v1/register",
            SharedSecretRegistrationResource(use_cases.registration, use_cases.profiles),
        ),
    ]
