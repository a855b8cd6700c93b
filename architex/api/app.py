"""Builds the Falcon application: middleware, route tables, error handlers."""

from __future__ import annotations

from collections.abc import Iterable

import falcon

from architex.api.errors import answer_http_error, answer_matrix_error, answer_unexpected
from architex.api.metrics import RequestMetrics
from architex.api.middleware import JsonHandler, RawPath, RequestMiddleware, WsgiApp
from architex.api.requests import RequesterFinder
from architex.api.routing import Route
from architex.domain.errors import MatrixError


def create_app(
    authenticator: RequesterFinder, routes: Iterable[Route], *, counted: bool = False
) -> WsgiApp:
    """The WSGI application that answers on `routes`.

    Args:
        authenticator: says who sent a request.
        counted: whether requests are counted for Prometheus.
    """
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App(
        middleware=[RequestMiddleware(authenticator)]
    )
    if counted:
        app.add_middleware(RequestMetrics())
    app.req_options.auto_parse_qs_csv = False
    app.req_options.keep_blank_qs_values = True
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = JsonHandler()
    # Later handlers are asked first when classes overlap; Exception comes last by class.
    app.add_error_handler(Exception, answer_unexpected)
    app.add_error_handler(falcon.HTTPError, answer_http_error)
    app.add_error_handler(MatrixError, answer_matrix_error)
    for route in routes:
        if route.suffix is None:
            app.add_route(route.path, route.resource)
        else:
            app.add_route(route.path, route.resource, suffix=route.suffix)
    return RawPath(app)
