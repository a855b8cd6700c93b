"""What gunicorn serves."""

from __future__ import annotations

from architex import __version__
from architex.api.app import create_app
from architex.api.authentication import Authenticator
from architex.api.client.encryption_routes import unstable_encryption_routes
from architex.api.client.routes import client_routes
from architex.api.federation.authentication import ServerAuthenticator
from architex.api.federation.routes import federation_routes
from architex.api.middleware import WsgiApp
from architex.api.routing import Route, under_client_versions
from architex.api.server_routes import server_routes
from architex.api.shutdown import stopping
from architex.api.static_pages import Health, WelcomePage
from architex.api.well_known import WellKnown
from architex.bootstrap.core import Core, build_core
from architex.bootstrap.federation import build_federation_client
from architex.bootstrap.use_cases import build_use_cases
from architex.domain.identifiers import ServerName
from architex.gateways.federation_client import FederationClient
from architex.settings import Settings
from architex.storage.destinations import Destinations


def _well_known(settings: Settings) -> WellKnown:
    """What /.well-known/matrix tells."""
    given = settings.well_known
    contact = {"matrix_id": given.support_matrix_id, "email_address": given.support_email}
    ways = {name: value for name, value in contact.items() if value is not None}
    return WellKnown(
        base_url=settings.public_base_url,
        delegated_server=given.delegated_server,
        support_page=given.support_page,
        contacts=[{"role": "m.role.admin", **ways}] if ways else [],
    )


def build_wsgi_app(settings: Settings) -> WsgiApp:
    """What gunicorn serves: every API, over the database of the settings."""
    core = build_core(settings, application_name="architex web")
    stopping.call_on_stop(core.notifier.stop)
    return build_app(settings, core)


def build_app(
    settings: Settings, core: Core, federation: FederationClient | None = None
) -> WsgiApp:
    """Every API, over a core.

    Args:
        federation: how other servers are asked; by default as the settings say.
    """
    federation = federation or build_federation_client(settings, core)
    use_cases = build_use_cases(settings, core, federation)
    servers = None
    if settings.federation.enabled:
        destinations = Destinations(core.database, core.call_later)
        client = federation

        def note_alive(server_name: ServerName) -> None:
            client.note_alive(server_name)
            destinations.note_alive(server_name)

        servers = ServerAuthenticator(settings.server_name, use_cases.key_ring, note_alive)
    routes = [
        Route(
            "/",
            WelcomePage(
                server_name=settings.server_name,
                version=__version__,
                base_url=settings.public_base_url,
            ),
        ),
        Route("/health", Health(core.event_log.position)),
        *server_routes(use_cases, _well_known(settings)),
        *under_client_versions(client_routes(use_cases)),
        *unstable_encryption_routes(use_cases),
    ]
    if settings.federation.enabled:
        routes += federation_routes(use_cases, core.clock, __version__)
    authenticator = Authenticator(
        use_cases.sessions, use_cases.rate_limits, servers, use_cases.presence.note_active
    )
    return create_app(authenticator, routes, counted=settings.metrics.port is not None)
