"""Salvage of the storages `lmdb` and `sqlite`: whatever page is lost, what lies in the others is kept."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from struct import Struct

import pytest

from share.kernel.buffer.lmdb_pages import BRANCH
from share.kernel.contracts.experience import RecordType
from share.kernel.contracts.kinds import Storage
from share.kernel.errors import BufferProblem
from share.kernel.experience.disk import RealDisk
from tests.buffer.test_table import STORAGES, add, told

PAGE = 4096
_PAGE = Struct("<QHHHH")  # of lmdb: number, padding, flags, end of the nodes' offsets, begin of the nodes
NAMES = {"lmdb": "data.mdb", "sqlite": "log.sqlite"}
PAYLOADS = [bytes([65 + number % 26]) * (37 * number % 900) + b"%d" % number for number in range(60)]
PAYLOADS[20:20] = [b"big" * 5000, b"bigger" * 9000]
DROPPED = 8


def make(directory: Path, storage: Storage) -> dict[int, bytes]:
    """A log of which the first records have gone; what the others hold, by sequence."""
    with closing(storage.open(directory, RealDisk(), "write")) as log:
        for payload in PAYLOADS:
            add(log, payload)
        log.truncate(DROPPED + 1)
        return {record.sequence: bytes(record.payload) for record in log.scan()}


def salvaged(directory: Path, storage: Storage) -> dict[int, bytes]:
    with closing(storage.open(directory, RealDisk(), "write", salvage=True)) as log:
        kept = {record.sequence: bytes(record.payload) for record in log.scan()}
        assert log.next_sequence > max(kept)
        log.append([(RecordType.ADD, [b"after"])])
    assert list(storage.verify(directory, RealDisk(), progress=lambda done, in_all: None)) == []
    with closing(storage.open(directory, RealDisk(), "read")) as log:
        assert told(log)[-1] == b"after"
    return kept


@pytest.mark.parametrize("name", STORAGES)
def test_any_page_may_be_lost_and_what_the_others_hold_is_kept(tmp_path: Path, name: str) -> None:
    storage = STORAGES[name]
    written = make(tmp_path / "whole", storage)
    [path] = (tmp_path / "whole").rglob(NAMES[name])
    num_pages = path.stat().st_size // PAGE
    lost_most = 0
    for number in range(num_pages):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", directory)
        with open(next(directory.rglob(NAMES[name])), "r+b") as file:
            file.seek(number * PAGE)
            file.write(bytes(PAGE))
        kept = salvaged(directory, storage)
        if (
            name == "sqlite" or number > 1
        ):  # without LMDB's newest root its newest transaction never was: the truncation
            assert kept.items() <= written.items(), f"page {number}: nothing comes back that has been dropped"
        lost_most = max(lost_most, len(written.keys() - kept.keys()))
        shutil.rmtree(directory)
    assert num_pages > 15
    assert 1 <= lost_most <= 30, "a page has few records, whatever it meant to the tree"


@pytest.mark.parametrize("name", STORAGES)
def test_salvage_of_what_is_sound_changes_nothing(tmp_path: Path, name: str) -> None:
    written = make(tmp_path, STORAGES[name])
    assert salvaged(tmp_path, STORAGES[name]) == written


def test_salvage_finds_what_only_the_write_ahead_log_of_sqlite_has(tmp_path: Path) -> None:
    storage = STORAGES["sqlite"]
    with closing(storage.open(tmp_path / "buffer", RealDisk(), "write")) as log:
        for payload in PAYLOADS:
            add(log, payload)
        shutil.copytree(tmp_path / "buffer", tmp_path / "killed")
    kept = salvaged(tmp_path / "killed", storage)
    assert list(kept.values()) == PAYLOADS


def test_an_lmdb_file_that_leads_out_of_itself_is_a_finding_and_not_the_end_of_verify(tmp_path: Path) -> None:
    storage = STORAGES["lmdb"]
    written = make(tmp_path, storage)
    [path] = tmp_path.rglob("data.mdb")
    content = bytearray(path.read_bytes())
    for meta in (0, PAGE):  # the root of either tree is a page far behind the end; the last page is said to be too
        content[meta + 128 : meta + 144] = (1 << 20).to_bytes(8, "little") + (1 << 21).to_bytes(8, "little")
    path.write_bytes(content)
    [finding] = storage.verify(tmp_path, RealDisk(), progress=lambda done, in_all: None)
    assert "SIGBUS" in finding.problem
    assert finding.is_loss
    assert salvaged(tmp_path, storage) == written


@pytest.mark.parametrize(("to_itself", "problem"), [(True, "SIGABRT"), (False, "leads back")])
def test_an_lmdb_tree_that_leads_back_is_a_finding_and_not_a_verify_without_end(
    tmp_path: Path, to_itself: bool, problem: str
) -> None:
    storage = STORAGES["lmdb"]
    with closing(storage.open(tmp_path, RealDisk(), "write")) as log:
        for _ in range(60):
            add(log, bytes(900))
    [path] = tmp_path.rglob("data.mdb")
    content = bytearray(path.read_bytes())
    for page in range(2 * PAGE, len(content), PAGE):
        _, _, flags, lower, _ = _PAGE.unpack_from(content, page)
        if flags == BRANCH:
            nodes = [page + int.from_bytes(content[at : at + 2], "little") for at in range(page + 16, page + lower, 2)]
            assert len(nodes) > 8
            child = content[page : page + 6] if to_itself else content[nodes[0] : nodes[0] + 6]
            for node in nodes[1:]:  # each of these would be gone through as often as there are ways to it
                content[node : node + 6] = child
    path.write_bytes(content)
    [finding] = storage.verify(tmp_path, RealDisk(), progress=lambda done, in_all: None)
    assert problem in finding.problem
    assert finding.is_loss


@pytest.mark.parametrize("name", STORAGES)
def test_a_file_of_nothing_but_noise_is_an_empty_log(tmp_path: Path, name: str) -> None:
    make(tmp_path, STORAGES[name])
    [path] = tmp_path.rglob(NAMES[name])
    path.write_bytes(bytes(range(256)) * 1024)
    with pytest.raises(BufferProblem), closing(STORAGES[name].open(tmp_path, RealDisk(), "write")):
        pass
    with closing(STORAGES[name].open(tmp_path, RealDisk(), "write", salvage=True)) as log:
        assert told(log) == []
