"""What stands before everything else: while every place is taken, a question is turned away by that alone.

Under overload most calls are turned away, and each of them takes time from those that are answered. So nobody looks who
asks, at which route, or at what was sent: the answer was written beforehand. Who sends no key, or a wrong one, is told
so when there is room again.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from share.kernel.online.chat import PATH
from share.kernel.online.metrics import Metrics
from share.kernel.online.refusals import refused_with
from share.kernel.serving.admission import Places


class Turnstile:
    """ASGI middleware around the whole app. A call that it turns away is counted like any other."""

    def __init__(self, app: ASGIApp, places: Places, metrics: Metrics) -> None:
        self._app = app
        self._places = places
        self._refused = metrics.calls.labels("POST", PATH, "429")
        response = refused_with(places.full())
        self._start = {"type": "http.response.start", "status": 429, "headers": response.raw_headers}
        self._body = {"type": "http.response.body", "body": bytes(response.body)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._places.are_taken and scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            self._refused.inc()
            await send(self._start)
            await send(self._body)
        else:
            await self._app(scope, receive, send)


__all__ = ["Turnstile"]
