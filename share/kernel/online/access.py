"""Who may call which route, decided before the body of a call is read.

A route says whom it lets in with `@allow(…)`; one that says nothing cannot be made. `Guarded` is the route class that
holds them to it: 401 without a key, 403 for a role that may not, 429 above the key's rate, 415 for a body that is not
said to be JSON, 413 for too large a one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from email.message import Message
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from share.kernel.errors import KeyRefused
from share.kernel.online.door import Door, door_of
from share.kernel.online.refusals import Refusal
from share.kernel.serving.admission import Place
from share.kernel.serving.keys import ROLES, ApiKey, Role

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Receive = Callable[[], Awaitable[Any]]

BODY_TIMEOUT_S = 30.0
"""Seconds that a caller may pause while sending a body."""

_ROLES, _HAS_PLACES = "pixelis_roles", "pixelis_has_places"
LOOKERS: tuple[Role, ...] = ("viewer", "reviewer", "operator", "admin")
"""Who may see how the service does."""


def allow(*roles: Role, has_places: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Marks an endpoint as open to these roles; to everybody, without a key, when none is named.

    With `has_places`, no more calls are under way at the same time than `admission.requests_max`: 429 before the body
    is read.
    """

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ROLES, tuple(role for role in ROLES if role in roles))
        setattr(endpoint, _HAS_PLACES, has_places)
        return endpoint

    return mark


class Guarded(APIRoute):
    """A route that lets in whom its endpoint allows."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        self.roles: tuple[Role, ...] = getattr(endpoint, _ROLES)
        self.has_places: bool = getattr(endpoint, _HAS_PLACES)
        if self.roles:
            extra = {"security": [{"key": []}], "x-roles": list(self.roles), **(settings.get("openapi_extra") or {})}
            settings["openapi_extra"] = extra
        super().__init__(path, endpoint, **settings)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            door = door_of(request)
            if self.roles:
                request.state.key = _admitted(door, request, self.roles)
            if self.body_field is not None:
                _is_json(request)
            limit = door.config.admission.body_bytes_max
            with door.places.one() if self.has_places else nullcontext() as request.state.place:
                return await handle(Request(request.scope, within(request, limit)))

        return guarded


def key_of(request: Request) -> ApiKey:
    """The key that a guarded call came with."""
    key = request.state.key
    assert isinstance(key, ApiKey), "the route is guarded"
    return key


def place_of(request: Request) -> Place:
    """The place that a call to an endpoint with places takes."""
    place = request.state.place
    assert isinstance(place, Place), "the endpoint has places"
    return place


def _admitted(door: Door, request: Request, roles: tuple[Role, ...]) -> ApiKey:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise KeyRefused("no API key was sent; send it as Authorization: Bearer <key>")
    key = door.keys.check(text.strip())
    door.buckets.take(key.id)
    if key.role not in roles:
        raise Refusal(403, "role", f"a key of role {key.role} may not do this; {' or '.join(roles)} may")
    return key


def _is_json(request: Request) -> None:
    """Raises a Refusal of a body that does not say so: what another one means would be a guess."""
    header = Message()
    header["Content-Type"] = said = request.headers.get("content-type", "")
    kind = header.get_content_subtype() if header.get_content_maintype() == "application" else ""
    if kind != "json" and not kind.endswith("+json"):
        problem = f"{_shown(said)} is not what this route reads" if said else "is missing"
        told = f"Content-Type: {problem}; send JSON with the header Content-Type: application/json"
        raise Refusal(415, "unsupported_media_type", told)
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        told = f"Content-Encoding: {_shown(coding)} is not understood; send the body as it is, without this header"
        raise Refusal(415, "unsupported_media_type", told)


def _shown(value: str) -> str:
    """A header's value, of one line and not too long."""
    return " ".join(value.split())[:80]


def within(request: Request, bytes_max: int) -> Receive:
    """The body of a request while it is not too large, whatever its header says, and while it comes: raises a Refusal
    of one that is, or that does not."""
    receive, so_far, is_whole = request.receive, 0, False
    said = request.headers.get("content-length", "")

    async def limited() -> Any:
        nonlocal so_far, is_whole
        if is_whole:
            return await receive()  # who has sent all may be silent for as long as they like
        if said.isdecimal() and int(said) > bytes_max:
            raise _too_large(bytes_max)
        try:
            message = await asyncio.wait_for(receive(), BODY_TIMEOUT_S)
        except TimeoutError as error:
            raise Refusal(408, "slow_body", f"nothing more of the body came for {BODY_TIMEOUT_S:.0f} s") from error
        so_far += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        if so_far > bytes_max:
            raise _too_large(bytes_max)
        return message

    return limited


def _too_large(bytes_max: int) -> Refusal:
    return Refusal(413, "too_large", f"the body has more than {bytes_max:,} bytes; send less, or smaller images")


__all__ = ["BODY_TIMEOUT_S", "LOOKERS", "Guarded", "allow", "key_of", "place_of", "within"]
