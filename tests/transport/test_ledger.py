"""The ledger: what is committed stays, together or not at all."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from share.kernel.errors import TransportError
from share.kernel.transport.ledger import Entry, Ledger

WRITER = """
import sys
from pathlib import Path
from share.kernel.transport.ledger import Entry, Ledger
ledger = Ledger(Path(sys.argv[1]))
number = len(ledger.entries()) // 3
while True:
    ledger.commit([Entry(f"{number}.{part}", f"v{number}", {"part": part}) for part in range(3)])
    print(number, flush=True)
    number += 1
"""


def test_tasks_are_committed_with_their_version(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.version() is None
    assert ledger.find("a") is None
    ledger.commit([Entry("a", "v1", None), Entry("b", "v1", {"loss": 0.5})])
    ledger.commit([Entry("c", "v2", [1, "x"])])
    again = Ledger(tmp_path)
    assert again.version() == "v2"
    assert again.find("b") == Entry("b", "v1", {"loss": 0.5})
    assert [entry.task_id for entry in again.entries()] == ["a", "b", "c"]


def test_a_task_is_committed_once_or_its_whole_commit_fails(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit([Entry("a", "v1", None)])
    with pytest.raises(Exception, match="UNIQUE"):
        ledger.commit([Entry("b", "v2", None), Entry("a", "v2", None)])
    assert ledger.version() == "v1"
    assert ledger.find("b") is None


def test_a_ledger_with_a_write_ahead_log_is_read_and_goes_on_without(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    old = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    assert old.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    old.execute("INSERT INTO committed (task_id, version, result, committed_at) VALUES ('a', 'v1', 'null', 0)")
    old.close()
    ledger, engines = Ledger(tmp_path), Ledger(tmp_path)
    ledger.commit([Entry("b", "v2", None)])
    engines.quarantine("c", "died")
    assert [entry.task_id for entry in engines.entries()] == ["a", "b"]
    assert ledger.quarantined() == {"c": "died"}
    assert not list(tmp_path.glob("*-wal"))
    ledger.close()
    engines.close()


def test_a_killed_writer_leaves_whole_commits(tmp_path: Path) -> None:
    acknowledged = -1
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(5):
            acknowledged = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        entries = Ledger(tmp_path).entries()
        expected = [f"{number}.{part}" for number in range(len(entries) // 3) for part in range(3)]
        assert [entry.task_id for entry in entries] == expected
        assert len(entries) // 3 > acknowledged


def test_the_old_is_forgotten_but_never_the_last_commit(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit([Entry("a", "v1", None)])
    ledger.commit([Entry("b", "v2", None)])
    ledger.forget(time.time() - 60)
    assert len(ledger.entries()) == 2
    ledger.forget(time.time() + 60)
    assert [entry.task_id for entry in ledger.entries()] == ["b"]
    assert ledger.version() == "v2"


def test_quarantine_is_kept_until_released(tmp_path: Path) -> None:
    Ledger(tmp_path).quarantine("a", "2 workers died over it")
    ledger = Ledger(tmp_path)
    assert ledger.quarantined() == {"a": "2 workers died over it"}
    ledger.release("a")
    assert Ledger(tmp_path).quarantined() == {}


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database, and long enough to be looked at" * 20)
    with pytest.raises(TransportError, match=r"ledger\.sqlite: cannot be used as a ledger"):
        Ledger(tmp_path)
