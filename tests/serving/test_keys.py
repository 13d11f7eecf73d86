"""API keys: shown once, kept as a hash, refused when they are not known, rotated without losing the client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from share.kernel.errors import KeyProblem, KeyRefused, UnknownKey
from share.kernel.serving.keys import LABEL_CHARACTERS_MAX, ROLES, KeyStore


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_new_file_has_one_admin_key_that_is_told_once(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "a" / "keys.json")
    assert store.first_key is not None
    assert store.check(store.first_key).role == "admin"
    again = KeyStore(tmp_path / "a" / "keys.json")
    assert again.first_key is None
    assert again.check(store.first_key) == store.check(store.first_key)


def test_no_secret_is_on_disk_and_only_the_owner_reads_the_file(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    texts = [store.first_key or "", *(store.add(role)[1] for role in ROLES)]
    stored = (tmp_path / "keys.json").read_text()
    assert not any(text in stored or text.split("-", 2)[2] in stored for text in texts)
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    assert len({store.check(text).id for text in texts}) == 6


@pytest.mark.parametrize(
    "change", ["", "x", "pixelis", "pixelis-", "pixelis-k0-x", "{}x", "x{}", "Bearer {}", "\ud800", "ü"]
)
def test_what_is_no_key_is_refused(change: str, tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    with pytest.raises(KeyRefused):
        store.check(change.format(store.first_key))


def test_the_secret_of_one_key_does_not_open_another(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    viewer, text = store.add("viewer")
    assert store.first_key is not None
    admin_id = store.check(store.first_key).id
    with pytest.raises(KeyRefused):
        store.check(text.replace(viewer.id, admin_id))


def test_a_rotated_key_is_the_same_client_and_the_old_secret_ends_after_its_grace(tmp_path: Path) -> None:
    clock = Clock()
    store = KeyStore(tmp_path / "keys.json", clock=clock)
    key, old = store.add("client", "camera 7")
    _, new = store.rotate(key.id, grace_s=60.0)
    assert store.check(old).id == store.check(new).id == key.id
    clock.now += 60.0
    with pytest.raises(KeyRefused):
        store.check(old)
    assert store.check(new).label == "camera 7"


def test_a_rotation_without_grace_ends_the_old_secret_at_once(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    key, old = store.add("client")
    _, between = store.rotate(key.id, grace_s=3600.0)
    _, new = store.rotate(key.id)
    assert store.check(new).id == key.id
    for text in (old, between):
        with pytest.raises(KeyRefused):
            store.check(text)


def test_a_removed_key_is_refused_and_the_last_admin_stays(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    key, text = store.add("operator")
    store.remove(key.id)
    with pytest.raises(KeyRefused):
        store.check(text)
    with pytest.raises(UnknownKey):
        store.remove(key.id)
    with pytest.raises(UnknownKey):
        store.rotate(key.id)
    assert store.first_key is not None
    with pytest.raises(KeyProblem, match="last admin"):
        store.remove(store.check(store.first_key).id)


def test_limits_are_said(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys.json")
    with pytest.raises(KeyProblem, match="label"):
        store.add("viewer", "x" * (LABEL_CHARACTERS_MAX + 1))
    with pytest.raises(KeyProblem, match="grace_s"):
        store.rotate(store.all()[0].id, grace_s=-1.0)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "salt": "", "keys": []}', b'{"format": 9}'],
)
def test_a_damaged_file_is_named_and_never_overwritten(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    with pytest.raises(KeyProblem, match=r"keys\.json"):
        KeyStore(path)
    assert path.read_bytes() == content


def test_a_role_that_nobody_has_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    KeyStore(path)
    told = json.loads(path.read_text())
    told["keys"][0]["role"] = "root"
    path.write_text(json.dumps(told))
    with pytest.raises(KeyProblem, match="damaged"):
        KeyStore(path)


def test_a_file_that_cannot_be_written_makes_no_key(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "gone" / "keys.json")
    (tmp_path / "gone" / "keys.json").unlink()
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("a file stands where the directory was")
    with pytest.raises(KeyProblem, match="cannot be written"):
        store.add("client")
    assert len(store.all()) == 1


def test_nobody_but_the_owner_can_read_the_file_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    def seen(old: Path, new: Path, replace: Callable[[Path, Path], None] = os.replace) -> None:
        modes.append(old.stat().st_mode & 0o777)
        replace(old, new)

    monkeypatch.setattr(os, "replace", seen)
    KeyStore(tmp_path / "keys.json").add("viewer")
    assert modes == [0o600, 0o600]
