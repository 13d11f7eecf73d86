"""`/health/…`, `/metrics`, `/v1/models` and `/v1/statistics`: how the service does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from share.kernel.online.access import LOOKERS, Guarded, allow
from share.kernel.online.door import door_of
from share.kernel.online.refusals import ErrorReply
from share.kernel.online.wire import Model, Models, Wire
from share.kernel.serving.keys import ROLES
from share.kernel.serving.statistics import LearningState

router = APIRouter(route_class=Guarded, tags=["health"])

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in (401, 403, 429)}


class Live(Wire):
    status: Literal["ok"] = "ok"


class Ready(Wire):
    """Whether questions are answered; a dead worker, or learning that is suspended, does not change that."""

    ready: bool
    adaptation: LearningState
    policy_version: str


@router.get("/health/live", response_model=Live)
@allow()
def live() -> Live:
    """The process runs."""
    return Live()


@router.get("/health/ready", response_model=Ready, responses={503: {"model": Ready}})
@allow()
def ready(request: Request, response: Response) -> Ready:
    """Questions are answered; 503 when not, as while the service stops."""
    door = door_of(request)
    is_ready = door.engine.is_ready() and not door.closing.is_set()
    if not is_ready:
        response.status_code = 503
    return Ready(ready=is_ready, adaptation=door.engine.learning, policy_version=door.engine.policy_version)


@router.get("/metrics", response_class=Response, responses={200: {"content": {METRICS_TYPE: {}}}, **_REFUSALS})
@allow(*LOOKERS)
def metrics(request: Request) -> Response:
    """For Prometheus, which sends the key of a viewer as its bearer token."""
    return Response(door_of(request).metrics.text(), media_type=METRICS_TYPE)


@router.get("/v1/models", response_model=Models, responses=_REFUSALS)
@allow(*ROLES)
def models(request: Request) -> Models:
    """The one model there is."""
    return Models(data=[_model(request)])


@router.get("/v1/models/{model}", response_model=Model, responses={404: {"model": ErrorReply}, **_REFUSALS})
@allow(*ROLES)
def model(model: Literal["pixelis"], request: Request) -> Model:
    """The one model there is."""
    return _model(request)


@router.get("/v1/statistics", response_class=JSONResponse, responses=_REFUSALS)
@allow(*LOOKERS)
def statistics(request: Request) -> JSONResponse:
    """Everything that the engine says of itself."""
    return JSONResponse(_plain(door_of(request).engine.get_statistics()))


def _plain(value: object) -> object:
    """What JSON can hold of a figure, or of a struct of figures; what is not finite is null."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)


def _model(request: Request) -> Model:
    door = door_of(request)
    return Model(created=int(door.started_at), policy_version=door.engine.policy_version)


__all__ = ["METRICS_TYPE", "Live", "Ready", "live", "metrics", "model", "models", "ready", "router", "statistics"]
