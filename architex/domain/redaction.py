"""What survives a redaction, by room version.

Spec: https://spec.matrix.org/v1.19/client-server-api/#redactions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architex.domain.room_versions import ALL_KEYS, RoomVersionRules


def redact_event(rules: RoomVersionRules, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the redacted form of an event; the event itself is left alone.

    `unsigned` does not survive either. The result shares values with the event.

    Spec: https://spec.matrix.org/v1.19/rooms/v11/#redactions (and the page of each room version)
    """
    keep = rules.redaction_keys
    redacted = {key: value for key, value in event.items() if key in keep}
    content = event.get("content")
    # Content that is no object is not a valid event; there is nothing of it to keep.
    redacted["content"] = (
        _redact_content(rules, event.get("type"), content) if isinstance(content, dict) else {}
    )
    return redacted


def _redact_content(
    rules: RoomVersionRules, event_type: Any, content: dict[str, Any]
) -> dict[str, Any]:
    if not isinstance(event_type, str):
        return {}
    keep = rules.redaction_content_keys.get(event_type)
    if keep is None:
        return {}
    if keep is ALL_KEYS:
        return content
    kept = {key: value for key, value in content.items() if key in keep}
    # Since v11, third_party_invite of a member event stays, with nothing but its signed key.
    if rules.redaction_keeps_third_party_signed and event_type == "m.room.member":
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):
            kept["third_party_invite"] = {
                key: value for key, value in invite.items() if key == "signed"
            }
    return kept
