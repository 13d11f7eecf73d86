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


@pytest.mark.parametrize(
    ("form", "status", "problem"),
    [
        (f"notes={'x' * 20_000}&decision=approve", 413, "the body has more than 20,000 bytes; send less"),
        ("&".join(f"f{number}=1" for number in range(21)), 422, "the form has more than 20 fields"),
        ("", 422, "the form says neither approve nor reject"),
    ],
)
def test_a_form_that_cannot_be_read_is_a_page_that_says_why(
    service: Service, form: str, status: int, problem: str
) -> None:
    cookie = {"Cookie": f"pixelis_key={service.keys['reviewer']}"}
    answer = service.call("POST", "/reviews/never", form.encode(), headers=cookie)
    assert (answer.status, problem.encode() in answer.body) == (status, True)
    assert answer.headers["content-type"].startswith("text/html")


def test_who_signs_in_with_a_book_is_told_so_without_a_key(service: Service) -> None:
    answer = service.call("POST", "/login", b"key=" + b"x" * 30_000)
    assert (answer.status, b"the body has more than 20,000 bytes" in answer.body) == (413, True)


def test_a_body_that_is_no_text_is_422(service: Service) -> None:
    answer = service.call("POST", "/v1/chat/completions", b"\xff\xfe", key=service.keys["client"])
    assert answer.status == 422


def test_a_service_that_is_stopped_logs_no_error_for_whom_it_turns_away() -> None:
    stopping, broken = EngineClosed("the service is stopping"), AuditUnavailable("audit.log: cannot be written")
    assert [status_of(error)[0] for error in (stopping, broken)] == [503, 503]
    assert [is_as_it_should_be(error) for error in (stopping, broken)] == [True, False]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TEXT = {"type": "text", "text": "What is it?"}


def with_content(content: object, **more: object) -> dict[str, object]:
    return {"model": "pixelis", "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"model": 5, "messages": []}, "model", "model: must be 'pixelis'"),
        ({"model": "pixelis"}, "messages", "messages: is needed"),
        ({"model": "pixelis", "messages": []}, "messages", "messages: must have at least 1 item, not 0"),
        (
            with_content(None),
            "messages.0.content",
            "messages.0.content: must be a valid string or must be",
        ),
        (with_content([TEXT, "x"]), "messages.0.content.1", "messages.0.content.1: must be a JSON object"),
        (
            with_content([{"type": "image_url", "image_url": "data:image/png;base64,AAAA"}, TEXT]),
            "messages.0.content.0.image_url",
            "messages.0.content.0.image_url: must be a JSON object",
        ),
        (
            with_content([{"type": "input_image"}, TEXT]),
            "messages.0.content.0",
            "messages.0.content.0: is of type 'input_image'; its type must be 'text', 'image_url'",
        ),
        (with_content([{"text": "x"}]), "messages.0.content.0", "messages.0.content.0: needs a type"),
        (
            with_content([{"type": "text", "txt": "x"}]),
            "messages.0.content.0.text",
            "messages.0.content.0.text: is needed",
        ),
        (with_content("a\ud800b"), "messages.0.content", "messages.0.content: has half a character in it"),
        (
            with_content([{"type": "text", "text": "\udfff"}]),
            "messages.0.content.0.text",
            "messages.0.content.0.text: has half a character in it",
        ),
        (with_content("x", user="\ud800"), "user", "user: has half a character in it"),
        (with_content([IMAGE]), None, "messages: there is no question in them; put it in text beside the images"),
        (with_content("x", pixelis={"is_video": True}), None, "pixelis.is_video: there are no images; send the frames"),
        (
            with_content("x", pixelis={"readonly": True}),
            "pixelis.readonly",
            "pixelis.readonly: is not supported",
        ),
        (with_content("x", pixelis=3), "pixelis", "pixelis: must be a JSON object"),
        (with_content("x", n=2), "n", "n: must be 1"),
        (
            {"model": "pixelis", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "messages.1.role",
            "messages.1.role: assistant: earlier turns are not taken; put what they said into the message of the user",
        ),
        (
            with_content([IMAGE, TEXT]),
            "messages.0.content.0.image_url",
            "messages.0.content.0.image_url: not a PNG",
        ),
        (b'{"model": "pixelis",}', None, "the body is not JSON: "),
        (b"[" * 100_000, None, "the body is not JSON in UTF-8, or nested too deeply"),
    ],
)
def test_a_wrong_question_is_told_where_it_is_wrong_and_what_is_right(
    service: Service, body: object, param: str | None, message: str
) -> None:
    answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
    error = answer.json["error"]
    assert (answer.status, error["param"]) == (422, param), error
    assert error["message"].startswith(message), error


def test_the_id_of_a_completion_is_told_from_that_of_its_answer(service: Service) -> None:
    said = {"trace_id": "chatcmpl-" + "a" * 32, "correct": True}
    answer = service.call("POST", "/v1/feedback", said, key=service.keys["client"])
    assert answer.status == 422
    assert answer.json["error"]["message"].startswith("trace_id: is that of a completion; send its pixelis.trace_id")


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/docs", 404, "/docs: there is no such route; the interface is below /v1, GET /openapi.json"),
        ("POST", "/chat/completions", 404, "/chat/completions: there is no such route"),
        ("GET", "/v1/chat/completions", 405, "/v1/chat/completions: it takes POST, not GET"),
        ("GET", "/v1/models/gpt-5", 404, "model: must be 'pixelis'"),
    ],
)
def test_a_wrong_route_is_told_where_all_of_them_are(
    service: Service, method: str, path: str, status: int, message: str
) -> None:
    answer = service.call(method, path, key=service.keys["client"])
    assert answer.status == status
    assert answer.json["error"]["message"].startswith(message), answer.body
