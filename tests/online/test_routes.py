"""No route is open that nobody wrote down: what the app is made of is the table of docs/online.md, pages included."""

from __future__ import annotations

from fastapi.routing import APIRoute

from share.kernel.online import admin, chat, health, reviews, site
from share.kernel.online.access import Guarded
from tests.online.test_access import API, TABLE

SCHEMA = ("GET", "/openapi.json")
"""Added by FastAPI itself."""


def test_every_route_that_is_served_is_in_the_table_pages_too() -> None:
    parts = (chat, reviews, admin, health, site)
    routes = [route for part in parts for route in part.router.routes]
    assert all(isinstance(route, APIRoute) for route in routes), "nothing is mounted beside them"
    served = [(method, route.path) for route in routes if isinstance(route, APIRoute) for method in route.methods]
    assert len(served) == len(set(served))
    assert set(served) | {SCHEMA} == TABLE.keys()


def test_every_route_of_the_interface_is_guarded() -> None:
    for part in (chat, reviews, admin, health):
        for route in part.router.routes:
            assert isinstance(route, Guarded), route
            (method,) = route.methods
            assert (route.roles or ("everybody",)) == API[method, route.path]
