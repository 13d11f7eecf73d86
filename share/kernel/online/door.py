"""What every route works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from fastapi import Request

from share.kernel.serving.admission import Places, TokenBuckets
from share.kernel.serving.keys import KeyStore

if TYPE_CHECKING:
    from share.kernel.events import StructuredLogger
    from share.kernel.online.alerts import Watch
    from share.kernel.online.config import OnlineConfig
    from share.kernel.online.metrics import Metrics
    from share.kernel.online.pictures import Painter
    from share.kernel.serving.engine import InferenceEngine


@dataclass(frozen=True, slots=True)
class Door:
    """One service: its engine, and what stands before it. `closing` is set when nobody is let in any more."""

    config: OnlineConfig
    engine: InferenceEngine
    keys: KeyStore
    buckets: TokenBuckets
    places: Places
    metrics: Metrics
    watch: Watch
    painter: Painter
    logger: StructuredLogger
    started_at: float
    closing: Event = field(default_factory=Event)


def door_of(request: Request) -> Door:
    """The door that a request came through."""
    door = request.app.state.door
    assert isinstance(door, Door), "the app was made with one"
    return door


__all__ = ["Door", "door_of"]
