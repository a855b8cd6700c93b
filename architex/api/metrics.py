"""Counts requests, for Prometheus. The processes count in files that they share."""

from __future__ import annotations

from time import perf_counter
from typing import Final

import falcon
from prometheus_client import Counter, Histogram

_REQUESTS: Final = Counter(
    "architex_http_requests",
    "Requests answered.",
    ("method", "route", "status"),
)
_SECONDS: Final = Histogram(
    "architex_http_request_seconds",
    "How long requests took; of /sync, most of it is waiting for news.",
    ("method", "route"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


class RequestMetrics:
    """Falcon middleware: counts each request under the route that answered it."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Note when it came."""
        req.env["architex.began"] = perf_counter()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Count it."""
        # Not the path that was asked for: anybody can think up a new one.
        route = req.uri_template or "none"
        method = req.method if req.method in falcon.HTTP_METHODS else "other"
        _REQUESTS.labels(method, route, resp.status_code).inc()
        _SECONDS.labels(method, route).observe(perf_counter() - req.env["architex.began"])
