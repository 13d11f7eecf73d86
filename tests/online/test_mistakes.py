"""A mistake of a caller is told as the caller's, also where it is found late."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from share.kernel.errors import AuditUnavailable, EngineClosed
from share.kernel.online.refusals import is_as_it_should_be, status_of
from tests.online.running import Service


@pytest.mark.parametrize("verdict", [{"approved": False, "answer": " "}, {"approved": True, "answer": "7"}])
def test_a_verdict_that_says_nothing_is_422(service: Service, verdict: dict[str, object]) -> None:
    answer = service.call("POST", "/v1/reviews/never/decision", verdict, key=service.keys["reviewer"])
    assert (answer.status, answer.json["error"]["type"]) == (422, "invalid_request_error")


@pytest.mark.parametrize("field", ["notes", "answer"])
def test_a_form_with_too_much_in_it_is_422(service: Service, field: str) -> None:
    cookie = {"Cookie": f"pixelis_key={service.keys['reviewer']}"}
    form = f"decision=reject&{field}={'x' * 2001}".encode()
    answer = service.call("POST", "/reviews/never", form, headers=cookie)
    assert answer.status == 422
    assert f"{field}: ".encode() in answer.body


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([], "Content-Type: is missing"),
        (["Content-Type: application/x-www-form-urlencoded"], "Content-Type: application/x-www-form-urlencoded is not"),
        (["Content-Type: text/plain; charset=utf-8"], "Content-Type: text/plain; charset=utf-8 is not"),
        (["Content-Type: application/json", "Content-Encoding: gzip"], "Content-Encoding: gzip is not understood"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions"), ("POST", "/v1/feedback"), ("PUT", "/v1/admin/learning")],
)
def test_a_body_that_does_not_say_that_it_is_json_is_415_and_told_which_header(
    service: Service, method: str, path: str, headers: list[str], named: str
) -> None:
    address = urlsplit(service.url)
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Length: 2", "Connection: close", *headers]
    lines.append(f"Authorization: Bearer {service.keys['admin']}")
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", "{}"]).encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 415 ")
    error = json.loads(body)["error"]
    assert error["message"].startswith(named)
    assert "; send" in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_media_type")


def test_json_of_another_name_is_json(service: Service) -> None:
    said = {"trace_id": "never", "correct": True}
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"):
        headers = {"Content-Type": kind}
        assert service.call("POST", "/v1/feedback", said, key=service.keys["client"], headers=headers).status == 404


@pytest.mark.parametrize(("body", "told"), [(b"", "the body is empty"), (b"[]", "the body is no JSON object")])
def test_a_body_that_is_no_object_is_told_so(service: Service, body: bytes, told: str) -> None:
    answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
    assert (answer.status, answer.json["error"]["message"].startswith(told)) == (422, True), answer.body


def test_a_body_that_is_no_text_is_422(service: Service) -> None:
    answer = service.call("POST", "/v1/chat/completions", b"\xff\xfe", key=service.keys["client"])
    assert answer.status == 422


def test_a_service_that_is_stopped_logs_no_error_for_whom_it_turns_away() -> None:
    stopping, broken = EngineClosed("the service is stopping"), AuditUnavailable("audit.log: cannot be written")
    assert [status_of(error)[0] for error in (stopping, broken)] == [503, 503]
    assert [is_as_it_should_be(error) for error in (stopping, broken)] == [True, False]
