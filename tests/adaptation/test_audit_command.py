"""`python -m share.kernel audit`: what an auditor has, as processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from share.kernel.adaptation.audit import AuditLog, entries

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from share.kernel.adaptation.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
while True:
    print(log.append("worker", "update").sequence, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of six entries."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, clock=lambda: 1_700_000_000.0)
    for number in range(1, 7):
        log.append("worker", "update", version=f"v{number}", reason="gated", task_id=f"task-{number}")
    log.close()
    return path


def audit(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "share.kernel", "audit", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_a_sound_log_is_said_to_be_sound_and_shown_with_every_field(path: Path) -> None:
    done = audit("verify", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: nothing found\n", "")
    assert json.loads(audit("verify", path, "--json").stdout) == []
    lines = audit("show", path).stdout.splitlines()
    assert lines[0].split() == ["entry", "when", "who", "what", "version", "reason", "task"]
    assert lines[1].split() == ["1", "2023-11-14", "22:13:20.000+00:00", "worker", "update", "v1", "gated", "task-1"]
    assert len(lines) == 7
    shown = json.loads(audit("show", path, "--json").stdout)
    assert [entry["hash"] for entry in shown] == [entry.hash for entry in entries(path)]


def test_the_entry_in_the_document_is_the_one_that_is_written(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first in (ROOT / "docs/formats/audit.md").read_text().splitlines()


def test_tampering_truncation_and_reordering_are_found(path: Path) -> None:
    sound = path.read_bytes()
    lines = sound.splitlines(keepends=True)
    for changed in (
        sound.replace(b'"version":"v3"', b'"version":"v9"'),
        sound[: sound.rindex(b"{")],
        sound[:-10],
        b"",
        b"".join([lines[0], lines[2], lines[1], *lines[3:]]),
        b"".join(lines[1:]),
    ):
        path.write_bytes(changed)
        done = audit("verify", path, "--json")
        assert done.returncode == 1
        (found,) = json.loads(done.stdout)
        assert found["is_loss"]
        assert found["path"] == str(path)
    path.write_bytes(sound.replace(b'"v3"', b'"v9"'))
    done = audit("verify", path)
    offset = sum(map(len, lines[:2]))
    assert f"LOSS: {path}: offset {offset}: what comes after entry 2" in done.stdout
    assert done.stdout.endswith(f"{path}: 1 found\n")


def test_a_lost_log_or_head_is_a_finding(path: Path) -> None:
    head = path.with_name("audit.jsonl.head")
    path.unlink()
    assert audit("verify", path).returncode == 1
    assert audit("show", path).stdout == f"no entries in {path}\n"
    head.rename(path)
    done = audit("verify", path)
    assert (done.returncode, "the head is lost" in done.stdout) == (1, True)


def test_what_a_crash_leaves_is_told_and_is_no_loss(path: Path) -> None:
    head = path.with_name("audit.jsonl.head")
    before = head.read_bytes()
    log = AuditLog(path)
    log.append("worker", "publish")
    log.close()
    head.write_bytes(before)
    done = audit("verify", path)
    assert done.returncode == 1
    assert done.stdout.startswith(f"note: {path}: ")


def test_older_files_are_found_with_a_head_that_was_noted_elsewhere(path: Path, tmp_path: Path) -> None:
    old = [(each, each.read_bytes()) for each in (path, path.with_name("audit.jsonl.head"))]
    log = AuditLog(path)
    log.append("operator", "rollback")
    log.close()
    noted = tmp_path / "noted"
    shutil.copy(path.with_name("audit.jsonl.head"), noted)
    assert audit("verify", path, "--known", noted).returncode == 0
    for each, content in old:
        each.write_bytes(content)
    assert audit("verify", path).returncode == 0
    done = audit("verify", path, "--known", noted)
    assert (done.returncode, "noted elsewhere" in done.stdout) == (1, True)


def test_show_gives_what_there_is_before_a_line_that_is_none_and_no_control_characters(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    forged = lines[3].replace(b"gated", rb"\u001b[2J")
    path.write_bytes(b"".join([*lines[:3], forged, *lines[4:]]))
    done = audit("show", path)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 4
    assert "is no entry" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_mistakes_are_one_line(path: Path, tmp_path: Path) -> None:
    for arguments, told in (
        (["verify", tmp_path / "none.jsonl"], "there is no such audit log"),
        (["show", tmp_path], "is a directory"),
        (["verify", path, "--known", path], "is no head of an audit log"),
        (["burn", path], "invalid choice"),
    ):
        done = audit(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_log_that_is_being_written_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(3):
            writer.stdout.readline()
            found = json.loads(audit("verify", path, "--json").stdout)
            assert not [each for each in found if each["is_loss"]]
        writer.kill()


def test_nothing_heavy_is_imported(path: Path) -> None:
    probe = (
        "import sys; from share.kernel.__main__ import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); sys.exit(code)"
    )
    for work in ("verify", "show"):
        subprocess.run([sys.executable, "-c", probe, "audit", work, str(path)], cwd=ROOT, check=True)
