"""One service for all tests of it: starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.online.running import Service, start


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Everything is audited, nothing is learned: each test knows what is in the queue."""
    running = start(
        tmp_path_factory.mktemp("service"),
        "engine.review.audit_share=1.0",
        "admission.requests_per_s=20",
        "admission.burst=300",
        "admission.body_bytes_max=2000000",
        "batching.queue_max=8",
    )
    try:
        running.make_keys()
        off = running.call("PUT", "/v1/admin/learning", {"on": False}, key=running.keys["operator"])
        assert off.status == 200
        yield running
    finally:
        assert running.stop() == 0, running.said
