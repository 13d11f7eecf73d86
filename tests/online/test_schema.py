"""Whatever a caller makes of the schema of the interface, the service never fails: schemathesis over every route."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.online.running import Service

EXAMPLES = 8
"""Calls of each route."""


HOW = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def statuses_of(route: Any, key: str) -> set[int]:
    """What the calls of one route were answered with."""
    seen: set[int] = set()

    @HOW
    @given(case=route.as_strategy())
    def calls(case: Any) -> None:
        answer = case.call(headers={"Authorization": f"Bearer {key}"}, timeout=60)
        seen.add(answer.status_code)
        assert answer.status_code < 500, (route.label, case.body, answer.text)

    calls()
    return seen


def test_no_call_that_the_schema_allows_makes_the_service_fail(service: Service) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    routes = [found.ok() for found in schema.get_all_operations()]
    assert len(routes) == 20
    seen = {route.label: statuses_of(route, service.keys["admin"]) for route in routes}
    assert set.union(*seen.values()) >= {200, 404, 422}, seen
    assert service.call("GET", "/health/ready").json["ready"] is True
