"""The composition root: the only place where objects are wired together.

The web application is in `bootstrap.web`, by itself: the followers and the commands do without
Falcon and all its resources, and stay smaller by that.
"""

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

__all__ = [
    "Core",
    "all_projections",
    "build_core",
    "build_device_lists",
    "build_federation_check",
    "build_federation_sender",
    "build_mailer",
    "build_server_notices",
    "build_use_cases",
    "followed_projections",
    "inline_projections",
    "run_followers",
]
