"""What is old goes only when what follows it is durable: the order of the calls of rebuilds that truncate.

A power cut does not show it where a file can be made again from the log, so the calls themselves are looked at.
"""

from __future__ import annotations

from pathlib import Path

from share.kernel.registry import Registry
from tests.buffer.faults import FaultyDisk
from tests.experience.making import experience, opened

DERIVED = ("snapshot-", "index-", "MANIFEST-")


class RecordingDisk(FaultyDisk):
    """Notes each change and sync with the name of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    def ask(self, operation: str, path: Path) -> None:
        self.calls.append((operation, path.name))

    def sync_directory(self, directory: Path) -> None:
        self.calls.append(("sync_directory", directory.name))


def test_nothing_old_goes_before_what_follows_it_is_durable(tmp_path: Path, registry: Registry) -> None:
    disk = RecordingDisk()
    directory = tmp_path / "buffer"
    directory.mkdir()
    storage = {"name": "file", "segment_bytes": 4096}
    with opened(directory, registry, disk=disk, storage=storage, capacity=20) as buffer:
        for start in range(0, 200, 20):
            buffer.add_many([experience(number) for number in range(start, start + 20)])
            buffer.rebuild()
    calls = disk.calls
    commits = [at for at, (call, name) in enumerate(calls) if call == "link" and name.startswith("MANIFEST-")]
    assert len(commits) == 10

    begin = 0
    for commit in commits:
        since = calls[begin:commit]
        for prefix in (*DERIVED, "vectors-"):
            synced = [at for at, (call, name) in enumerate(since) if call == "sync" and name.startswith(prefix)]
            written = [at for at, (call, name) in enumerate(since) if call == "pwrite" and name.startswith(prefix)]
            assert synced, f"{prefix} is not synced before the manifest names it"
            assert not written or written[-1] < synced[-1], f"{prefix} is written after its sync"
        for prefix in ("snapshot-", "index-"):
            linked, *_ = [
                at for at, (call, name) in enumerate(since) if call in ("link", "rename") and name.startswith(prefix)
            ]
            assert ("sync_directory", "buffer") in since[linked:], f"the name {prefix} is not durable"
        begin = commit

    gone = [
        (at, name)
        for at, (call, name) in enumerate(calls)
        if call == "unlink" and not name.endswith(".tmp") and name.startswith((*DERIVED, "00000"))
    ]
    for prefix in (*DERIVED, "00000"):
        assert any(name.startswith(prefix) for _, name in gone), (
            f"nothing old of {prefix} has gone, so nothing is shown"
        )
    for at, name in gone:
        commit = max(each for each in [0, *commits] if each < at)
        assert ("sync_directory", "buffer") in calls[commit:at], f"{name} goes before its successor is durable"
        if name.startswith(("snapshot-", "index-")):
            made = max(each for each, call in enumerate(calls[:at]) if call in (("link", name), ("rename", name)))
            assert sum(made < each < at for each in commits) >= 2, f"{name} goes while the newest manifest names it"
        if name.startswith("00000"):
            between = calls[commit:at]
            (said,) = [each for each, (call, to) in enumerate(between) if call == "link" and to.endswith(".segment")][
                -1:
            ]
            assert ("sync_directory", "log") in between[said:], f"{name} goes before it is said that it does not count"
