"""Nothing personal is on a disk after a service has recorded what was personal: buffer, review queue and audit log."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from benchmarks.personal_samples import Sample, make_samples
from share.kernel.adaptation.audit import AuditLog
from share.kernel.adaptation.review import ReviewConfig, ReviewQueue
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.privacy.redaction import RedactionConfig, Redactor
from share.kernel.registry import Registry
from share.kernel.serving.subjects import Subjects
from tests.experience.making import experience, opened
from tests.privacy.traces import traces

SUBJECT = "jane.doe@example.org"
NUM_FIELDS = 9


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [sample for sample in make_samples(7_002, 150) if sample.truths]


def personal(samples: list[Sample]) -> set[str]:
    """All that must not be found; three or four digits alone are everywhere."""
    texts = {sample.text[truth.start : truth.end] for sample in samples for truth in sample.truths}
    return {text for text in texts if len(text) > 4} | {SUBJECT}


def record(
    directory: Path, registry: Registry, storage: str, samples: list[Sample], kept: Callable[[str], str]
) -> None:
    """What a service writes of its requests, every text passed through `kept`; each field has texts of its own."""
    directory.mkdir()
    subject = Subjects(directory / "subjects.key").key(SUBJECT) if kept(SUBJECT) != SUBJECT else SUBJECT
    texts = [kept(sample.text) for sample in samples]
    queue = ReviewQueue(directory / "reviews.sqlite", ReviewConfig(audit_share=1.0), seed=1)
    log = AuditLog(directory / "audit.jsonl")
    with opened(directory / "buffer", registry, storage={"name": storage}) as buffer:
        for first in range(0, len(texts), NUM_FIELDS):
            told = [*texts[first : first + NUM_FIELDS], *[""] * NUM_FIELDS]
            call = Action(
                "operation",
                told[2],
                operation="READ_TEXT",
                arguments={"looking for": told[3]},
                observation=told[4],
                error=told[5],
            )
            made = experience(
                first,
                question=told[0],
                answer=told[1],
                trajectory=Trajectory(f"e{first}", (call,), told[6], "answer"),
                subject=subject,
                features={"visual": np.zeros(4, dtype=np.float16)},
                metadata={"answers": {"frozen": told[7]}},
            )
            buffer.add(made)
            queue.offer(made.id, subject=SUBJECT)
            queue.decide(made.id, True, "reviewer", told[8])
            log.append("key:reviewer", "review", task_id=made.id, reason="approved")
        buffer.rebuild()
    queue.close()
    log.close()


@pytest.mark.parametrize("storage", ["file", "lmdb", "sqlite"])
def test_nothing_personal_is_in_any_file_of_a_service(
    tmp_path: Path, registry: Registry, samples: list[Sample], storage: str
) -> None:
    redactor = Redactor(RedactionConfig())
    texts = personal(samples)
    assert len(texts) > 100
    record(tmp_path / "kept", registry, storage, samples, lambda text: redactor.redact(text).text)
    assert traces(tmp_path / "kept", texts) == []


def test_without_redaction_all_of_it_would_be_there(tmp_path: Path, registry: Registry, samples: list[Sample]) -> None:
    texts = personal(samples)
    record(tmp_path / "raw", registry, "file", samples, lambda text: text)
    assert {trace.text for trace in traces(tmp_path / "raw", texts)} == texts
    assert {trace.path.name for trace in traces(tmp_path / "raw", texts)} >= {"reviews.sqlite"}


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.encode(),
        lambda text: text.upper().encode(),
        lambda text: text.encode("utf-16"),
        lambda text: json.dumps({"answer": text}).encode(),
        lambda text: quote(text, safe="").encode(),
        lambda text: gzip.compress(b"header" * 9 + text.encode()),
        lambda text: base64.b64encode(b"any prefix: " + text.encode() + b" and more"),
        lambda text: text.replace(" ", "-").encode(),
    ],
)
@pytest.mark.parametrize("text", ["garcía.lópez@example.org", "4111 1111 1111 1111"])
def test_a_trace_is_found_however_it_is_written(tmp_path: Path, text: str, written: Callable[[str], bytes]) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/file.bin").write_bytes(b"\x00" * 3 + written(text) + b"\xff")
    (tmp_path / "clean").write_bytes(b"4111 1111 1111 1112")
    assert [(trace.path.name, trace.text) for trace in traces(tmp_path, [text])] == [("file.bin", text)]


def test_a_trace_in_a_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "jane@example.org.png").touch()
    assert len(traces(tmp_path, ["jane@example.org"])) == 1
