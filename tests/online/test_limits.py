"""Every way of being turned away, with its status, and what a hostile caller gets."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from share.kernel.media.image import encode_image
from share.kernel.registry import Registry
from tests.online.running import Service, question, start


def ask(service: Service, url: str, **more: object) -> tuple[int, str]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    body = {"model": "pixelis", "messages": [{"role": "user", "content": parts}], **more}
    answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
    return answer.status, answer.json.get("error", {}).get("message", "")


def png_that_claims(width: int, height: int) -> str:
    """A PNG of 80 bytes whose header claims so many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode()


def test_a_decompression_bomb_is_refused_by_its_header(service: Service) -> None:
    status, message = ask(service, png_that_claims(60_000, 60_000))
    assert status == 422
    assert "4,000,000 pixels" in message
    status, message = ask(service, png_that_claims(2_001, 2_000))
    assert (status, "2001 x 2000" in message) == (422, True)


def test_no_address_is_fetched(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        for url in (f"http://127.0.0.1:{trap.getsockname()[1]}/x.png", "file:///etc/passwd", "ftp://x/y", "x"):
            status, message = ask(service, url)
            assert status == 422
            assert "is not fetched" in message
            assert message.startswith("messages.0.content.0.image_url: ")
        try:
            trap.accept()
        except TimeoutError:
            return
        raise AssertionError("the service fetched an image")


def test_what_is_no_image_is_named(service: Service) -> None:
    assert ask(service, "data:image/png;base64,AAAA")[0] == 422
    assert ask(service, "data:image/png;base64,%%%")[0] == 422
    too_many = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}] * 9
    body = {
        "model": "pixelis",
        "messages": [{"role": "user", "content": [*too_many, {"type": "text", "text": "x"}]}],
    }
    answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
    assert (answer.status, answer.json["error"]["code"]) == (422, "too_many_images")


def test_an_image_of_the_largest_size_is_answered(service: Service) -> None:
    pixels = np.zeros((2000, 2000, 3), np.uint8)
    assert ask(service, "data:image/png;base64," + base64.b64encode(encode_image(pixels)).decode())[0] == 200


def test_a_body_that_is_too_large_is_refused_by_what_it_says_and_by_what_it_is(service: Service) -> None:
    address = urlsplit(service.url)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {service.keys['client']}\r\nConnection: close\r\n"
    )

    def status(lines: str, body: bytes) -> bytes:
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
            connection.sendall(head.encode() + lines.encode() + b"\r\n" + body)
            return connection.makefile("rb").readline()

    assert b" 413 " in status("Content-Length: 2000001\r\n", b"{")
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    assert b" 413 " in status("Transfer-Encoding: chunked\r\n", chunk * 2)


def test_a_client_that_hangs_up_is_not_answered(service: Service, registry: Registry) -> None:
    messages, _ = question(registry)
    body = json.dumps({"model": "pixelis", "messages": messages}).encode()
    address = urlsplit(service.url)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {service.keys['client']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    gone = 'pixelis_http_requests_total{method="POST",route="/v1/chat/completions",status="499"}'
    for _ in range(50):
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
            connection.sendall(head.encode() + body)
        if gone in service.call("GET", "/metrics", key=service.keys["viewer"]).body.decode():
            return
    raise AssertionError("every answer was written for nobody")


def test_an_id_that_was_never_given_out_is_a_mistake_of_the_caller(service: Service, registry: Registry) -> None:
    messages, _ = question(registry)
    service.client().chat.completions.create(model="pixelis", messages=messages)  # type: ignore[call-overload]
    for trace_id, status in (("never", 404), ("x" * 40, 404), ("x" * 41, 422), ("ü" * 30, 422), ("", 422)):
        said = {"trace_id": trace_id, "correct": True}
        assert service.call("POST", "/v1/feedback", said, key=service.keys["client"]).status == status, trace_id
    assert service.call("GET", f"/v1/reviews/{'x' * 41}", key=service.keys["reviewer"]).status == 422


def test_broken_json_and_a_wrong_type_are_422(service: Service) -> None:
    for body in (b"{", b"\xff\xfe", b"[]", b'"x"', b'{"\\ud800": 1}', b"nul", b""):
        answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
        assert answer.status in (400, 422), (body, answer)
        assert answer.json["error"]["type"] == "invalid_request_error"


def test_one_that_cannot_begin_in_time_is_429_and_says_when_to_come_back(service: Service, registry: Registry) -> None:
    messages, _ = question(registry)
    body = {"model": "pixelis", "messages": messages, "pixelis": {"deadline_s": 1e-6}}
    answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
    assert (answer.status, answer.json["error"]["code"]) == (429, "deadline_exceeded")
    assert int(answer.headers["retry-after"]) >= 1


def test_overload_turns_away_and_answers_the_rest(service: Service, registry: Registry) -> None:
    messages, _ = question(registry)
    body = {"model": "pixelis", "messages": messages, "temperature": 1.0}
    statuses: list[int] = []

    def one() -> None:
        answer = service.call("POST", "/v1/chat/completions", body, key=service.keys["client"])
        statuses.append(answer.status)
        if answer.status == 429:
            assert answer.json["error"]["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1

    threads = [threading.Thread(target=one) for _ in range(48)]  # 4 are answered at once, 8 may wait
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = Counter(statuses)
    assert set(counts) == {200, 429}
    assert counts[200] >= 8
    assert service.call("GET", "/health/ready").status == 200


def test_a_service_that_lets_many_wait_asks_its_memory_while_they_do(tmp_path: Path, registry: Registry) -> None:
    running = start(tmp_path, "batching.rows_max=1", "admission.requests_max=60")
    try:
        running.make_keys()
        messages, _ = question(registry)
        body = {"model": "pixelis", "messages": messages}
        statuses: list[int] = []

        def one() -> None:
            statuses.append(running.call("POST", "/v1/chat/completions", body, key=running.keys["client"]).status)

        while b"recorded_experiences_total 0.0" in running.call("GET", "/metrics", key=running.keys["viewer"]).body:
            one()
        threads = [threading.Thread(target=one) for _ in range(24)]  # 23 wait, more than the 8 of a default
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        text = running.call("GET", "/metrics", key=running.keys["viewer"]).body.decode()
        assert 'trouble="policy_only:busy"' not in text
    finally:
        assert running.stop() == 0, running.said


def test_a_key_that_calls_too_often_is_429_and_others_are_not(service: Service) -> None:
    made = service.call("POST", "/v1/admin/keys", {"role": "viewer"}, key=service.keys["admin"]).json
    for _ in range(2_000):  # 300 at once and 20 a second are let in
        answer = service.call("GET", "/v1/models/pixelis", key=made["key"])
        if answer.status == 429:
            break
    assert answer.status == 429
    assert answer.json["error"]["code"] == "rate_limit_exceeded"
    assert int(answer.headers["retry-after"]) >= 1
    assert service.call("GET", "/v1/models", key=service.keys["viewer"]).status == 200


def test_metrics_count_it_all_and_hold_no_path_that_a_caller_made_up(service: Service, registry: Registry) -> None:
    made = service.call("POST", "/v1/admin/keys", {"role": "client"}, key=service.keys["admin"]).json
    messages, _ = question(registry)
    while (answer := service.call("POST", "/v1/chat/completions", {}, key=made["key"])).status != 429:
        assert answer.status == 422
    body = {"model": "pixelis", "messages": messages}
    assert service.call("POST", "/v1/chat/completions", body, key=service.keys["client"]).status == 200
    service.call("GET", "/v1/made/up/by/a/caller")
    text = service.call("GET", "/metrics", key=service.keys["viewer"]).body.decode()
    assert "made/up" not in text
    for line in (
        'pixelis_http_requests_total{method="POST",route="/v1/chat/completions",status="429"}',
        'pixelis_http_requests_total{method="POST",route="/v1/chat/completions",status="200"}',
        "pixelis_num_requests_running 0.0",
        "pixelis_num_requests_waiting 0.0",
        "pixelis_e2e_request_latency_seconds_bucket",
        'pixelis_expert_weight{expert="frozen"}',
        'pixelis_learning{state="off"} 1.0',
        'pixelis_request_success_total{finished_reason="answer"}',
    ):
        assert line in text, line
