"""A mistake of a caller is told as the caller's, also where it is found late."""

from __future__ import annotations

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


def test_a_body_that_is_no_text_is_422(service: Service) -> None:
    answer = service.call("POST", "/v1/chat/completions", b"\xff\xfe", key=service.keys["client"])
    assert answer.status == 422


def test_a_service_that_is_stopped_logs_no_error_for_whom_it_turns_away() -> None:
    stopping, broken = EngineClosed("the service is stopping"), AuditUnavailable("audit.log: cannot be written")
    assert [status_of(error)[0] for error in (stopping, broken)] == [503, 503]
    assert [is_as_it_should_be(error) for error in (stopping, broken)] == [True, False]
