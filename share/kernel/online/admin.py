"""`/v1/admin/…`: what operators and admins do. Every change is in the audit log before it is done."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import Field

from share.kernel.online.access import Guarded, allow, key_of
from share.kernel.online.door import door_of
from share.kernel.online.refusals import ErrorReply
from share.kernel.online.wire import SUBJECT_CHARACTERS_MAX, Wire
from share.kernel.serving.keys import GRACE_S_MAX, LABEL_CHARACTERS_MAX, ApiKey, Role

router = APIRouter(route_class=Guarded, tags=["administration"])

KeyId = Annotated[str, Path(min_length=1, max_length=40)]

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (401, 403, 404, 409, 413, 415, 422, 429, 503)
}


class Reason(Wire):
    """Why; a code for the audit log, which holds no free text."""

    reason: str = Field(default="by_hand", pattern=r"^[A-Za-z0-9_.:-]{1,80}$")


class Version(Wire):
    policy_version: str
    """The version that answers now."""


class Learning(Wire):
    on: bool
    """Off: no update is sent until it is on again. On also resumes after workers died too often."""


class Subject(Wire):
    subject: str = Field(min_length=1, max_length=SUBJECT_CHARACTERS_MAX)
    """The person, as requests named them."""


class Erased(Wire):
    experiences: int
    """How many were erased from memory and every file."""


class NewKey(Wire):
    role: Role
    label: str = Field(default="", max_length=LABEL_CHARACTERS_MAX)


class Rotation(Wire):
    grace_s: float = Field(default=0.0, ge=0.0, le=GRACE_S_MAX)
    """Seconds for which the secret before still counts."""


class KeyTold(Wire):
    """A key without its secret."""

    id: str
    role: Role
    label: str
    created_at: float
    """Seconds since 1970."""


class KeyMade(KeyTold):
    """A key with its secret, which is told this once."""

    key: str


class Keys(Wire):
    keys: list[KeyTold]


@router.post("/v1/admin/rollback", response_model=Version, responses=_REFUSALS)
@allow("operator", "admin")
def roll_back(why: Reason, request: Request) -> Version:
    """Serve the version before; the weights are in memory already."""
    engine = door_of(request).engine
    return Version(policy_version=engine.roll_back(actor=key_of(request).id, reason=why.reason))


@router.post("/v1/admin/reset", response_model=Version, responses=_REFUSALS)
@allow("operator", "admin")
def reset(why: Reason, request: Request) -> Version:
    """Serve the shipped policy again."""
    engine = door_of(request).engine
    return Version(policy_version=engine.reset(actor=key_of(request).id, reason=why.reason))


@router.put("/v1/admin/learning", response_model=Learning, responses=_REFUSALS)
@allow("operator", "admin")
def set_learning(wanted: Learning, request: Request) -> Learning:
    """Switch learning on or off; answering goes on either way."""
    door_of(request).engine.set_learning(wanted.on, actor=key_of(request).id)
    return wanted


@router.post("/v1/admin/erase", response_model=Erased, responses=_REFUSALS)
@allow("admin")
def erase(whom: Subject, request: Request) -> Erased:
    """Erase everything about a person."""
    return Erased(experiences=door_of(request).engine.erase(whom.subject, actor=key_of(request).id))


@router.get("/v1/admin/keys", response_model=Keys, responses=_REFUSALS)
@allow("admin")
def keys(request: Request) -> Keys:
    """All keys, without their secrets."""
    return Keys(keys=[_told(key) for key in door_of(request).keys.all()])


@router.post("/v1/admin/keys", response_model=KeyMade, status_code=201, responses=_REFUSALS)
@allow("admin")
def make_key(wanted: NewKey, request: Request) -> KeyMade:
    """Make a key."""
    door = door_of(request)
    door.engine.note(key_of(request).id, "key", reason=f"made_{wanted.role}")
    key, text = door.keys.add(wanted.role, wanted.label)
    return _made(key, text)


@router.post("/v1/admin/keys/{key_id}/rotate", response_model=KeyMade, responses=_REFUSALS)
@allow("admin")
def rotate_key(key_id: KeyId, how: Rotation, request: Request) -> KeyMade:
    """Give a key a new secret; it stays the same client."""
    door = door_of(request)
    known = door.keys.get(key_id)
    door.engine.note(key_of(request).id, "key", reason="rotated", task_id=known.id)
    key, text = door.keys.rotate(key_id, grace_s=how.grace_s)
    return _made(key, text)


@router.delete("/v1/admin/keys/{key_id}", response_model=KeyTold, responses=_REFUSALS)
@allow("admin")
def remove_key(key_id: KeyId, request: Request) -> KeyTold:
    """Make a key worthless, at once. The last admin key cannot be removed."""
    door = door_of(request)
    known = door.keys.get(key_id)
    door.engine.note(key_of(request).id, "key", reason="removed", task_id=known.id)
    return _told(door.keys.remove(key_id))


def _told(key: ApiKey) -> KeyTold:
    return KeyTold(id=key.id, role=key.role, label=key.label, created_at=key.created_at)


def _made(key: ApiKey, text: str) -> KeyMade:
    return KeyMade(id=key.id, role=key.role, label=key.label, created_at=key.created_at, key=text)


__all__ = [
    "Erased",
    "KeyMade",
    "KeyTold",
    "Keys",
    "Learning",
    "NewKey",
    "Reason",
    "Rotation",
    "Subject",
    "Version",
    "erase",
    "keys",
    "make_key",
    "remove_key",
    "reset",
    "roll_back",
    "rotate_key",
    "router",
    "set_learning",
]
