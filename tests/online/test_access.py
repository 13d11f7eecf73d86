"""Who may do what: every route for every role, as the schema of the service and docs/online.md say it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from share.kernel.errors import ImageTokenMismatch, PolicyError
from share.kernel.online.refusals import status_of
from share.kernel.online.site import COOKIE
from share.kernel.serving.keys import ROLES
from tests.online.running import ROOT, Service

DOCUMENT = ROOT / "docs/online.md"
OPEN = "everybody"

BODIES: dict[tuple[str, str], object] = {
    ("POST", "/v1/chat/completions"): {"model": "pixelis", "messages": [{"role": "user", "content": "What is it?"}]},
    ("POST", "/v1/feedback"): {"trace_id": "never", "correct": True},
    ("POST", "/v1/reviews/lease"): {"num_items": 1},
    ("POST", "/v1/reviews/{task_id}/decision"): {"approved": True},
    ("POST", "/v1/admin/rollback"): {"reason": "matrix"},
    ("POST", "/v1/admin/reset"): {"reason": "matrix"},
    ("PUT", "/v1/admin/learning"): {"on": False},
    ("POST", "/v1/admin/erase"): {"subject": "nobody"},
    ("POST", "/v1/admin/keys"): {"role": "viewer"},
    ("POST", "/v1/admin/keys/{key_id}/rotate"): {},
}
"""What each route is called with; ids are of nothing that there is."""


def documented() -> dict[tuple[str, str], tuple[str, ...]]:
    """The table of docs/online.md: (method, path) to roles."""
    rows = re.findall(r"^\| `([A-Z]+) (/[^`]*)` \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {(method, path): tuple(roles.split(", ")) for method, path, roles in rows}


TABLE = documented()
API = {route: roles for route, roles in TABLE.items() if route[1].startswith(("/v1/", "/health", "/metrics"))}
PAGES = {route: roles for route, roles in TABLE.items() if route not in API and route[1] != "/openapi.json"}


def test_the_table_has_every_route_and_its_roles(service: Service) -> None:
    schema = service.call("GET", "/openapi.json").json
    told: dict[tuple[str, str], tuple[str, ...]] = {
        (method.upper(), path): tuple(operation.get("x-roles", (OPEN,)))
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }
    assert told == API


@pytest.mark.parametrize("route", API, ids=lambda route: " ".join(route))
def test_a_route_lets_in_its_roles_and_no_others(route: tuple[str, str], service: Service) -> None:
    method, path = route
    path = path.replace("{task_id}", "never").replace("{key_id}", "never").replace("{model}", "pixelis")
    for role in ROLES:
        answer = service.call(method, path, BODIES.get(route), key=service.keys[role])
        if API[route] == (OPEN,) or role in API[route]:
            assert answer.status in (200, 201, 404), (role, answer)
        else:
            assert answer.status == 403, (role, answer)
            assert answer.json["error"]["type"] == "permission_error"
    for key in (None, "pixelis-k0-wrong"):
        answer = service.call(method, path, BODIES.get(route), key=key)
        assert answer.status == (200 if API[route] == (OPEN,) else 401), answer
        assert answer.status == 200 or answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", PAGES, ids=lambda route: " ".join(route))
def test_a_page_lets_in_its_roles_and_no_others(route: tuple[str, str], service: Service) -> None:
    method, path = route
    path = path.replace("{task_id}", "never").replace("{action}", "learning_off")
    body = b"decision=approve" if method == "POST" else None
    for role in ROLES:
        answer = service.call(method, path, body, headers={"Cookie": f"{COOKIE}={service.keys[role]}"})
        if PAGES[route] == (OPEN,):
            assert answer.status in (200, 303, 401), (role, answer)
        else:
            assert (answer.status == 403) != (role in PAGES[route]), (role, answer)
    if PAGES[route] != (OPEN,):
        stranger = service.call(method, path, body)
        assert (stranger.status, stranger.headers["location"]) == (303, "/login")
        by_header = service.call(method, path, body, key=service.keys["admin"])
        assert by_header.status == 303, "a page takes the cookie alone"


def test_a_form_from_another_site_changes_nothing(service: Service) -> None:
    cookie = {"Cookie": f"{COOKIE}={service.keys['admin']}"}
    for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("/actions/reset", "/reviews/never", "/login"):
            answer = service.call("POST", path, b"decision=approve", headers={**cookie, **foreign})
            assert answer.status == 403, (path, answer)
    assert service.call("POST", "/v1/admin/reset", {}, headers=cookie).status == 401, "the API takes no cookie"


def test_signing_in_sets_a_cookie_that_no_script_and_no_other_site_gets(service: Service) -> None:
    wrong = service.call("POST", "/login", b"key=pixelis-k0-wrong")
    assert wrong.status == 401
    assert b"not known" in wrong.body
    assert service.call("POST", "/login", f"key={service.keys['client']}".encode()).status == 401
    right = service.call("POST", "/login", f"key={service.keys['viewer']}".encode())
    assert right.status == 303
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(right.headers["set-cookie"].split("; "))


def test_a_rotated_key_stays_the_same_client_and_a_removed_one_is_nobody(service: Service) -> None:
    admin = service.keys["admin"]
    made = service.call("POST", "/v1/admin/keys", {"role": "viewer", "label": "for a while"}, key=admin).json
    rotated = service.call("POST", f"/v1/admin/keys/{made['id']}/rotate", {"grace_s": 0}, key=admin).json
    assert rotated["id"] == made["id"]
    assert service.call("GET", "/v1/models", key=made["key"]).status == 401
    assert service.call("GET", "/v1/models", key=rotated["key"]).status == 200
    listed: list[dict[str, Any]] = service.call("GET", "/v1/admin/keys", key=admin).json["keys"]
    assert made["id"] in [key["id"] for key in listed]
    assert all("key" not in key and "digest" not in key for key in listed)
    assert service.call("DELETE", f"/v1/admin/keys/{made['id']}", key=admin).status == 200
    assert service.call("GET", "/v1/models", key=rotated["key"]).status == 401


def test_what_admins_and_operators_did_is_in_the_audit_log(service: Service) -> None:
    service.call("POST", "/v1/admin/reset", {"reason": "to_be_found"}, key=service.keys["operator"])
    made = service.call("POST", "/v1/admin/keys", {"role": "client"}, key=service.keys["admin"]).json
    log = (Path(service.directory) / "audit.log").read_text()
    assert "to_be_found" in log
    assert "made_client" in log
    assert made["key"] not in log


def test_a_fault_of_the_service_is_not_told_as_the_callers() -> None:
    assert status_of(PolicyError("a question must not contain image tokens"))[0] == 422
    assert status_of(ImageTokenMismatch("rollout 0 of prompt x"))[0] == 500
