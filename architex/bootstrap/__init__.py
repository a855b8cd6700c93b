"""The composition root: the only place where objects are wired together."""

from __future__ import annotations

from architex.bootstrap.core import (
    Core,
    all_projections,
    build_core,
    followed_projections,
    inline_projections,
)
from architex.bootstrap.federation import (
    build_device_lists,
    build_federation_check,
    build_federation_sender,
)
from architex.bootstrap.followers import run_followers
from architex.bootstrap.outside import build_mailer
from architex.bootstrap.use_cases import build_server_notices, build_use_cases
from architex.bootstrap.web import build_app, build_wsgi_app

__all__ = [
    "Core",
    "all_projections",
    "build_app",
    "build_core",
    "build_device_lists",
    "build_federation_check",
    "build_federation_sender",
    "build_mailer",
    "build_server_notices",
    "build_use_cases",
    "build_wsgi_app",
    "followed_projections",
    "inline_projections",
    "run_followers",
]
