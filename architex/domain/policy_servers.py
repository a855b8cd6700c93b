"""Policy servers: rooms may have each event recommended by a server before it is shown.

Spec: https://spec.matrix.org/v1.19/server-server-api/#policy-servers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architex.domain.errors import InvalidCanonicalJson, InvalidSignature
from architex.domain.identifiers import ServerName, is_server_name
from architex.domain.pdu import Pdu, signed_event_json
from architex.domain.room_versions import RoomVersionRules
from architex.domain.signing import signatures_of, verify_signature
from architex.domain.unpadded_base64 import decode_base64

POLICY_KEY_ID: Final = "ed25519:policy_server"
"""Names the key of any policy server, whichever it is."""

POLICY_TYPE: Final = "m.room.policy"


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """The server whose signature the events of a room need.

    Attributes:
        verify_key: what the room says its public key is; 32 bytes, if it is any.
    """

    server_name: ServerName
    verify_key: bytes


def parse_policy(content: Mapping[str, Any]) -> PolicyServer | None:
    """The server that the content of an m.room.policy event names; None when it names none.

    Whether the room uses it depends on whether it has a member there, too.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
    """
    via, keys = content.get("via"), content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, Mapping) else None
    if not isinstance(via, str) or not is_server_name(via) or not isinstance(key, str):
        return None
    try:
        return PolicyServer(via, decode_base64(key))
    except ValueError:  # then nothing that it signs can be verified
        return PolicyServer(via, b"")


def needs_recommendation(pdu: Pdu) -> bool:
    """Whether a policy server has a say about an event: about all but what names it.

    Nor about m.room.create, which is there before anybody can be asked.
    """
    return pdu.state_key != "" or pdu.type not in (POLICY_TYPE, "m.room.create")


def is_recommended(
    rules: RoomVersionRules, policy_server: PolicyServer, event: Mapping[str, Any]
) -> bool:
    """Whether a policy server has signed an event.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures
    """
    signature = signatures_of(event, policy_server.server_name).get(POLICY_KEY_ID)
    if signature is None:
        return False
    try:
        message = signed_event_json(rules, event)
        verify_signature(message, signature, POLICY_KEY_ID, policy_server.verify_key)
    except (InvalidSignature, InvalidCanonicalJson):
        return False
    return True


def with_recommendation(
    event: Mapping[str, Any], policy_server: PolicyServer, answer: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of an event with the signature that a policy server answered, beside those it has.

    Other signatures in the answer are left out. Whether it is good is to be looked at.

    Spec: https://spec.matrix.org/v1.19/server-server-api/#asking-for-a-policy-server-signature-on-an-event
    """
    name = policy_server.server_name
    given = answer.get(name)
    signature = given.get(POLICY_KEY_ID) if isinstance(given, Mapping) else None
    if not isinstance(signature, str):
        return dict(event)
    own = {**signatures_of(event, name), POLICY_KEY_ID: signature}
    return {**event, "signatures": {**event["signatures"], name: own}}
