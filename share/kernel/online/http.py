"""The app: every route behind one door."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from share.kernel.online import admin, chat, health, reviews, site
from share.kernel.online.door import Door
from share.kernel.online.metrics import Counted
from share.kernel.online.refusals import answer_errors

TITLE = "Pixelis"


def make_app(door: Door) -> FastAPI:
    """The app of one service. Its schema is at /openapi.json; documentation pages would come from a foreign host."""
    app = FastAPI(title=TITLE, version="1", docs_url=None, redoc_url=None)
    app.state.door = door
    for part in (chat, reviews, admin, health, site):
        app.include_router(part.router)
    answer_errors(app)
    app.add_middleware(Counted, metrics=door.metrics)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        components: dict[str, Any] = schema.setdefault("components", {})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


__all__ = ["TITLE", "make_app"]
