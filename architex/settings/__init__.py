"""Settings: read once from a TOML file and the environment, frozen, typed, units in the names."""

from __future__ import annotations

from architex.settings.keys import (
    PRIVATE_NETWORKS,
    EmailSettings,
    EncryptionSettings,
    FederationSettings,
    IdentitySettings,
    Listener,
    MediaSettings,
    OutboundSettings,
    ProcessSettings,
    RateLimit,
    RateLimitSettings,
    RecaptchaSettings,
    RegistrationSettings,
    RoomDirectorySettings,
    RoomSettings,
    S3Settings,
    Settings,
    TermsSettings,
    WellKnownSettings,
)
from architex.settings.reading import DEFAULT_CONFIG_FILE, find_config_file, load_settings
from architex.settings.rendering import render_config

__all__ = [
    "DEFAULT_CONFIG_FILE",
    "PRIVATE_NETWORKS",
    "EmailSettings",
    "EncryptionSettings",
    "FederationSettings",
    "IdentitySettings",
    "Listener",
    "MediaSettings",
    "OutboundSettings",
    "ProcessSettings",
    "RateLimit",
    "RateLimitSettings",
    "RecaptchaSettings",
    "RegistrationSettings",
    "RoomDirectorySettings",
    "RoomSettings",
    "S3Settings",
    "Settings",
    "TermsSettings",
    "WellKnownSettings",
    "find_config_file",
    "load_settings",
    "render_config",
]
