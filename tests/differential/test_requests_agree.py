"""Synapse reads our Authorization headers as we mean them, and we read its own.

Spec: https://spec.matrix.org/v1.19/server-server-api/#request-authentication
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given, settings
from hypothesis import strategies as st

from architex.api.federation.authentication import parse_credentials
from architex.domain.signing import SigningKey, verify_signature
from architex.gateways.federation_client import request_to_sign
from tests.federation.peers import Peer

pytest.importorskip("tests.differential.synapse_rules")
client_module = pytest.importorskip("synapse.http.matrixfederationclient")
server_module = pytest.importorskip("synapse.federation.transport.server._base")

SEED = b"k" * 32
OURS, THEIRS = "ours.example:8448", "theirs.example"

contents = st.none() | st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e6, 1e6) | st.text('aü"\\'),
    max_size=3,
)


@given(contents)
@settings(max_examples=50, deadline=None)
def test_synapse_understands_our_signatures(content: Any) -> None:
    peer = Peer(OURS, SigningKey.from_seed(SEED, "k1"))
    header = peer.authorize("PUT", "/a?b=c%20", THEIRS, content)
    origin, key_id, signature, destination = server_module._parse_auth_header(header.encode())
    request = {"method": "PUT", "uri": "/a?b=c%20", "origin": origin, "destination": destination}
    if content is not None:
        request["content"] = content
    request["signatures"] = {origin: {key_id: signature}}
    verify_key = signedjson.key.decode_verify_key_bytes(key_id, peer.key.verify_key)
    signedjson.sign.verify_signed_json(request, OURS, verify_key)


@given(contents)
@settings(max_examples=50, deadline=None)
def test_we_understand_signatures_of_synapse(content: Any) -> None:
    theirs = signedjson.key.decode_signing_key_base64("ed25519", "k1", "a2tr" * 10 + "a2s")
    synapse = SimpleNamespace(server_name=THEIRS, signing_key=theirs)
    build = client_module.MatrixFederationHttpClient.build_auth_headers
    (header,) = build(cast(Any, synapse), OURS.encode(), b"PUT", b"/a?b=c%20", content)
    (credentials,) = parse_credentials(header.decode())
    assert (credentials.origin, credentials.destination) == (THEIRS, OURS)
    message = request_to_sign("PUT", "/a?b=c%20", THEIRS, OURS, content)
    verify_key = signedjson.key.get_verify_key(theirs).encode()
    verify_signature(message, credentials.signature, credentials.key_id, verify_key)
