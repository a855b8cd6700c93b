"""The e-mail addresses of an account; phone numbers are answered as not supported.

Spec: https://spec.matrix.org/v1.19/client-server-api/#legacy-account-management
"""

from __future__ import annotations

from typing import Any

import falcon
from marshmallow import fields

from architex.api.authentication import client_address
from architex.api.client.account import unbind_result
from architex.api.interactive_auth import interactive
from architex.api.requests import BodySchema, json_body, load, require_user
from architex.domain.errors import MissingParam, ThirdPartyMediumNotSupported
from architex.domain.third_party import ThirdPartyAddress, parse_address
from architex.usecases.email_validation import EmailRequest, EmailValidations
from architex.usecases.third_party_identifiers import ThirdPartyIdentifiers


class _EmailRequestSchema(BodySchema):
    client_secret = fields.String(required=True)
    email = fields.String(required=True)
    send_attempt = fields.Integer(required=True, strict=True)
    next_link = fields.String(allow_none=True)


class _ProofSchema(BodySchema):
    client_secret = fields.String(required=True)
    sid = fields.String(required=True)


class _OldProofSchema(BodySchema):
    three_pid_creds = fields.Nested(_ProofSchema)
    # What it was called before r0.6.0.
    threePidCreds = fields.Nested(_ProofSchema)


class _BindSchema(_ProofSchema):
    id_server = fields.String(required=True)
    id_access_token = fields.String()


class _AddressSchema(BodySchema):
    medium = fields.String(required=True)
    address = fields.String(required=True)
    id_server = fields.String(allow_none=True)


_EMAIL_REQUEST = _EmailRequestSchema()
_PROOF = _ProofSchema()
_OLD_PROOF = _OldProofSchema()
_BIND = _BindSchema()
_ADDRESS = _AddressSchema()


class EmailTokenResource:
    """POST …/email/requestToken: of /register, /account/password and /account/3pid."""

    def __init__(self, emails: EmailValidations, purpose: str) -> None:
        self._emails = emails
        self._purpose = purpose

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send a mail that proves an address.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken
        """
        request = EmailRequest(**load(_EMAIL_REQUEST, json_body(req)))
        session_id = self._emails.request_token(
            self._purpose, request, address=client_address(req)
        )
        resp.media = {"sid": session_id}


class PhoneTokenResource:
    """POST …/msisdn/requestToken: of /register, /account/password and /account/3pid."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send a message that proves a phone number: this server sends none.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registermsisdnrequesttoken
        """
        json_body(req)
        raise ThirdPartyMediumNotSupported("This server knows no phone numbers.")


class ThirdPartyIdentifiersResource:
    """GET and POST /account/3pid."""

    def __init__(self, identifiers: ThirdPartyIdentifiers) -> None:
        self._identifiers = identifiers

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The addresses of the account.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3account3pid
        """
        addresses = self._identifiers.list_addresses(require_user(req))
        resp.media = {
            "threepids": [
                {
                    "medium": added.address.medium,
                    "address": added.address.address,
                    "validated_at": added.validated_ts,
                    "added_at": added.added_ts,
                }
                for added in addresses
            ]
        }

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Add a proven address, as before r0.6.0.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pid
        """
        requester = require_user(req)
        given = load(_OLD_PROOF, json_body(req))
        proof = given.get("three_pid_creds") or given.get("threePidCreds")
        if proof is None:
            raise MissingParam("Missing: three_pid_creds.")
        self._identifiers.add_proven(requester, proof["sid"], proof["client_secret"])
        resp.media = {}


class AddResource:
    """POST /account/3pid/add."""

    def __init__(self, identifiers: ThirdPartyIdentifiers) -> None:
        self._identifiers = identifiers

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Add a proven address.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidadd
        """
        requester = require_user(req)
        body = json_body(req)
        proof = load(_PROOF, body)
        with interactive():
            self._identifiers.add(
                requester, proof["sid"], proof["client_secret"], body.get("auth")
            )
        resp.media = {}


class BindResource:
    """POST /account/3pid/bind."""

    def __init__(self, identifiers: ThirdPartyIdentifiers) -> None:
        self._identifiers = identifiers

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Have an identity server tell whose an address is.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidbind
        """
        requester = require_user(req)
        given = load(_BIND, json_body(req))
        self._identifiers.bind(
            requester,
            identity_server=given["id_server"],
            access_token=given.get("id_access_token"),
            session_id=given["sid"],
            client_secret=given["client_secret"],
        )
        resp.media = {}


class UnbindResource:
    """POST /account/3pid/unbind."""

    def __init__(self, identifiers: ThirdPartyIdentifiers) -> None:
        self._identifiers = identifiers

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Have an identity server forget whose an address is.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidunbind
        """
        requester = require_user(req)
        address, server = _address(load(_ADDRESS, json_body(req)))
        resp.media = unbind_result(self._identifiers.unbind(requester, address, server))


class DeleteResource:
    """POST /account/3pid/delete."""

    def __init__(self, identifiers: ThirdPartyIdentifiers) -> None:
        self._identifiers = identifiers

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take an address out of the account.

        Spec: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3piddelete
        """
        # Whoever is suspended shall stay reachable.
        requester = require_user(req, suspended=False)
        address, server = _address(load(_ADDRESS, json_body(req)))
        resp.media = unbind_result(self._identifiers.delete(requester, address, server))


def _address(given: dict[str, Any]) -> tuple[ThirdPartyAddress, str | None]:
    return parse_address(given["medium"], given["address"]), given.get("id_server")
