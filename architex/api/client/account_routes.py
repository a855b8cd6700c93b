"""The rows of the client API's table that are about users and their accounts."""

from __future__ import annotations

from architex.api.client import (
    account,
    account_data,
    admin_accounts,
    admin_whois,
    auth_fallback,
    devices,
    discovery,
    login,
    openid,
    profiles,
    push,
    pushers,
    registration,
    reporting,
    third_party,
)
from architex.api.client import third_party_identifiers as identifiers
from architex.api.client.mutual_rooms import MutualRoomsResource
from architex.api.client.notifications import NotificationsResource
from architex.api.client.search import SearchResource
from architex.api.client.voip import TurnServerResource
from architex.api.routing import Route
from architex.usecases import email_validation
from architex.usecases.catalogue import UseCases


def account_routes(use_cases: UseCases) -> list[Route]:
    """Rows below `/_matrix/client/{version}`.

    Spec: https://spec.matrix.org/v1.19/client-server-api/
    """
    data = use_cases.account_data
    own_room = "/user/{user_id}/rooms/{room_id}"
    return [
        Route(
            "/capabilities",
            discovery.CapabilitiesResource(
                use_cases.room_creation.default_version,
                addresses_change=use_cases.third_party_identifiers.may_change,
                forgets_on_leave=use_cases.joining.forgotten.on_leave,
            ),
        ),
        Route("/register", registration.RegisterResource(use_cases.registration)),
        Route(
            "/register/available",
            registration.RegisterAvailableResource(use_cases.registration),
        ),
        Route(
            "/register/m.login.registration_token/validity",
            registration.RegistrationTokenValidityResource(use_cases.registration),
        ),
        Route(
            "/auth/{auth_type}/fallback/web",
            auth_fallback.AuthFallbackResource(use_cases.interactive_auth),
        ),
        Route("/login", login.LoginResource(use_cases.login)),
        Route("/login/get_token", login.LoginTokenResource(use_cases.login_tokens)),
        Route("/refresh", login.RefreshResource(use_cases.sessions)),
        Route("/logout", login.LogoutResource(use_cases.sessions)),
        Route("/logout/all", login.LogoutAllResource(use_cases.sessions)),
        Route("/account/whoami", account.WhoamiResource()),
        Route("/account/password", account.PasswordResource(use_cases.accounts)),
        Route("/account/deactivate", account.DeactivateResource(use_cases.accounts)),
        *_address_routes(use_cases),
        Route("/devices", devices.DevicesResource(use_cases.devices)),
        Route("/devices/{device_id}", devices.DeviceResource(use_cases.devices)),
        Route("/delete_devices", devices.DeleteDevicesResource(use_cases.devices)),
        Route("/profile/{user_id}", profiles.ProfileResource(use_cases.profiles)),
        Route("/profile/{user_id}/{key_name}", profiles.ProfileFieldResource(use_cases.profiles)),
        Route("/user/{user_id}/account_data/{type}", account_data.AccountDataResource(data)),
        Route(own_room + "/account_data/{type}", account_data.RoomAccountDataResource(data)),
        Route(own_room + "/tags", account_data.TagsResource(data)),
        Route(own_room + "/tags/{tag}", account_data.TagResource(data)),
        Route("/user/{user_id}/filter", account_data.FiltersResource(use_cases.filters)),
        Route(
            "/user/{user_id}/openid/request_token",
            openid.RequestTokenResource(use_cases.openid),
        ),
        Route("/admin/lock/{user_id}", admin_accounts.LockResource(use_cases.account_moderation)),
        Route(
            "/admin/suspend/{user_id}",
            admin_accounts.SuspendResource(use_cases.account_moderation),
        ),
        Route("/users/{user_id}/report", reporting.ReportUserResource(use_cases.reporting)),
        Route("/mutual_rooms", MutualRoomsResource(use_cases.mutual_rooms)),
        Route("/voip/turnServer", TurnServerResource(use_cases.turn_servers)),
        *_third_party_routes(),
        Route("/admin/whois/{user_id}", admin_whois.WhoisResource(use_cases.whois)),
        Route(
            "/user/{user_id}/filter/{filter_id}",
            account_data.FilterResource(use_cases.filters),
        ),
        *_push_routes(use_cases),
        Route("/search", SearchResource(use_cases.searching)),
        Route("/notifications", NotificationsResource(use_cases.notifications)),
        Route("/pushers", pushers.PushersResource(use_cases.pushers)),
        Route("/pushers/set", pushers.SetPusherResource(use_cases.pushers)),
    ]


def _address_routes(use_cases: UseCases) -> list[Route]:
    emails, own = use_cases.emails, use_cases.third_party_identifiers
    phones = identifiers.PhoneTokenResource()
    purposes = {
        "/register": email_validation.REGISTER,
        "/account/password": email_validation.PASSWORD,
        "/account/3pid": email_validation.ADD,
    }
    return [
        *(
            Route(f"{path}/email/requestToken", identifiers.EmailTokenResource(emails, purpose))
            for path, purpose in purposes.items()
        ),
        *(Route(f"{path}/msisdn/requestToken", phones) for path in purposes),
        Route("/account/3pid", identifiers.ThirdPartyIdentifiersResource(own)),
        Route("/account/3pid/add", identifiers.AddResource(own)),
        Route("/account/3pid/bind", identifiers.BindResource(own)),
        Route("/account/3pid/unbind", identifiers.UnbindResource(own)),
        Route("/account/3pid/delete", identifiers.DeleteResource(own)),
    ]


def _third_party_routes() -> list[Route]:
    protocol, lookup = third_party.ProtocolResource(), third_party.LookupResource()
    return [
        Route("/thirdparty/protocols", third_party.ProtocolsResource()),
        Route("/thirdparty/protocol/{protocol}", protocol),
        Route("/thirdparty/location", lookup),
        Route("/thirdparty/location/{protocol}", protocol),
        Route("/thirdparty/user", lookup),
        Route("/thirdparty/user/{protocol}", protocol),
    ]


def _push_routes(use_cases: UseCases) -> list[Route]:
    rules = use_cases.push_rules
    incomplete = push.IncompletePathResource()
    rule = "/pushrules/global/{kind}/{rule_id}"
    return [
        Route("/pushrules/", push.PushRulesResource(rules)),
        Route("/pushrules/global/", push.GlobalPushRulesResource(rules)),
        Route("/pushrules/global/{kind}/", push.PushRulesOfKindResource(rules)),
        Route(rule, push.PushRuleResource(rules)),
        Route(rule + "/enabled", push.PushRuleEnabledResource(rules)),
        Route(rule + "/actions", push.PushRuleActionsResource(rules)),
        Route(rule + "/{attribute}", incomplete),
        Route("/pushrules/global/{kind}", incomplete),
        Route("/pushrules/global", incomplete),
        Route("/pushrules/{scope}", incomplete),
        Route("/pushrules/{scope}/", incomplete),
        Route("/pushrules/{scope}/{kind}/{rule_id}", incomplete),
    ]
