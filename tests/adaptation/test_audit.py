"""The audit log: on disk before the effect, and no change of it goes unseen."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from share.kernel.adaptation.audit import AuditLog, entries, verify
from share.kernel.errors import AuditBroken, AuditUnavailable

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from share.kernel.adaptation.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
print("open", flush=True)
while True:
    print(log.append("worker", "update", version=f"v{log.head.sequence + 1}").sequence, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of eight entries."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, clock=lambda: 1_700_000_000.0)
    for number in range(1, 9):
        log.append("worker", "update", version=f"v{number}", reason="gated", task_id=f"task-{number}")
    log.close()
    return path


def test_what_was_appended_is_read_in_order_and_goes_on_after_reopening(path: Path) -> None:
    log = AuditLog(path)
    added = log.append("key:ab12", "rollback", version="v7", reason="anchor_worse")
    told = list(entries(path))
    assert [entry.sequence for entry in told] == list(range(1, 10))
    assert told[-1] == added
    assert (added.actor, added.action, added.version, added.reason) == ("key:ab12", "rollback", "v7", "anchor_worse")
    assert added.previous == told[-2].hash
    assert verify(path) == []
    log.close()


def test_every_byte_that_is_changed_is_found(path: Path) -> None:
    content = path.read_bytes()
    for offset in range(0, len(content), 7):
        changed = bytearray(content)
        changed[offset] ^= 1
        path.write_bytes(changed)
        assert any(found.is_loss for found in verify(path)), f"byte {offset}"
    with pytest.raises(AuditBroken, match=r"audit\.jsonl"):
        AuditLog(path)


def test_a_cut_anywhere_is_found(path: Path) -> None:
    content = path.read_bytes()
    for size in [0, 1, *range(5, len(content), 11), len(content) - 1]:
        path.write_bytes(content[:size])
        assert any(found.is_loss for found in verify(path)), f"cut to {size} bytes"
    with pytest.raises(AuditBroken):
        AuditLog(path)


def test_lines_that_were_moved_left_out_repeated_or_added_are_found(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for changed in (
        [lines[1], lines[0], *lines[2:]],
        lines[1:],
        [*lines[:3], *lines[4:]],
        [*lines[:3], lines[2], *lines[3:]],
        [*lines[:7], lines[6]],
    ):
        path.write_bytes(b"".join(changed))
        assert any(found.is_loss for found in verify(path))


def test_a_log_without_its_head_or_with_an_older_one_is_not_believed(path: Path) -> None:
    head = path.with_name("audit.jsonl.head")
    old_head, old_log = head.read_bytes(), path.read_bytes()
    head.unlink()
    assert any(found.is_loss for found in verify(path))
    head.write_bytes(b"{}")
    with pytest.raises(AuditBroken, match="head"):
        AuditLog(path)
    head.write_bytes(old_head)
    log = AuditLog(path)
    for _ in range(3):
        log.append("worker", "update")
    noted = log.head
    log.close()
    head.write_bytes(old_head)
    assert any(found.is_loss for found in verify(path)), "three entries that no head ever named"
    path.write_bytes(old_log)
    assert verify(path) == [], "both files are of the day before: nothing in them can tell"
    assert verify(path, noted)[0].is_loss, "what was noted elsewhere can"


def test_a_forged_chain_is_not_the_one_that_was_noted(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "forged.jsonl"
    log, forged = AuditLog(path), AuditLog(other)
    for _ in range(8):
        forged.append("worker", "update", version="v1")
    assert verify(path, log.head) == []
    assert verify(other) == []
    assert "noted elsewhere" in verify(other, log.head)[0].problem
    assert "ends before" in verify(path, replace(log.head, sequence=100))[0].problem
    log.close()
    forged.close()


def test_what_a_crash_leaves_of_an_entry_is_cut_and_a_whole_one_is_kept(path: Path) -> None:
    head = path.with_name("audit.jsonl.head")
    before = head.read_bytes()
    log = AuditLog(path)
    log.append("worker", "publish", version="v9")
    log.close()
    whole = path.read_bytes()
    head.write_bytes(before)  # killed between the log's sync and the head's
    assert [found.is_loss for found in verify(path)] == [False]
    log = AuditLog(path)
    assert log.head.sequence == 9
    log.close()
    path.write_bytes(whole + b'{"sequence":10,"at":17')
    assert [found.is_loss for found in verify(path)] == [False]
    log = AuditLog(path)
    assert log.append("worker", "publish", version="v10").sequence == 10
    assert verify(path) == []
    log.close()


@pytest.mark.parametrize(
    "values",
    [
        {"actor": "Ada Lovelace"},
        {"actor": ""},
        {"actor": "ada@example.org"},
        {"reason": "because the user said so"},
        {"version": "v1\n"},
        {"task_id": "x" * 81},
        {"action": "learn"},
    ],
)
def test_text_cannot_get_in(path: Path, values: dict[str, str]) -> None:
    log = AuditLog(path)
    with pytest.raises(ValueError, match=next(iter(values))):
        log.append(**{"actor": "worker", "action": "update", **values})  # type: ignore[arg-type]
    assert log.head.sequence == 8
    log.close()


def test_there_is_one_writer(path: Path) -> None:
    log = AuditLog(path)
    with pytest.raises(AuditUnavailable, match="another process"):
        AuditLog(path)
    log.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        log.append("worker", "update")


def test_a_full_disk_acknowledges_nothing(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("worker", "update")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._descriptor)  # the descriptor of the log now answers as a full disk does
    os.close(full)
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            log.append("worker", "update")
    assert verify(tmp_path / "audit.jsonl") == []


def test_threads_make_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    threads = [threading.Thread(target=lambda: [log.append("worker", "update") for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.head.sequence == 20
    assert verify(tmp_path / "audit.jsonl") == []
    log.close()


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    acknowledged = 0
    for kill in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        for _ in range(random.Random(kill).randrange(1, 12)):
            acknowledged = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split("\n")
        child.wait()
        child.stdout.close()
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        for each in tmp_path.glob("audit.jsonl*"):
            shutil.copy(each, copy)
        assert not any(found.is_loss for found in verify(copy / "audit.jsonl"))
        assert sum(1 for entry in entries(path) if entry.sequence <= acknowledged) == acknowledged
