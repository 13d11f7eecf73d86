from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from share.kernel.errors import CheckpointError
from share.kernel.policy.checkpoint import (
    fingerprint,
    random_state,
    read_checkpoint,
    restore_random_state,
    sha256_of_tensors,
    write_checkpoint,
)


def parts(value: float) -> dict[str, object]:
    return {"policy": {"weight": torch.full((3,), value)}, "trainer": {"cursor": 7, "names": ("a", "b")}}


def test_a_checkpoint_reads_back_what_was_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 5, "grpo", parts(1.0))
    checkpoint = read_checkpoint(tmp_path, "grpo")
    assert checkpoint is not None
    assert checkpoint.step == 5
    assert torch.equal(checkpoint.parts["policy"]["weight"], torch.ones(3))  # type: ignore[index]
    assert checkpoint.parts["trainer"] == {"cursor": 7, "names": ("a", "b")}


def test_an_empty_directory_has_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "none", "grpo") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_last_good_one(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, 1, "grpo", parts(1.0))
    path = write_checkpoint(tmp_path, 2, "grpo", parts(2.0)) / "policy.pt"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        (path.parent / "manifest.json").write_text('{"format": 1')
    checkpoint = read_checkpoint(tmp_path, "grpo")
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert "step_00000002" in checkpoint.damaged[0]


def test_no_good_checkpoint_at_all_is_an_error(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, 1, "grpo", parts(1.0)) / "policy.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint is good.*policy\.pt does not have the hash"):
        read_checkpoint(tmp_path, "grpo")


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, "sft", parts(1.0))
    with pytest.raises(CheckpointError, match="is a checkpoint of 'sft', this run is 'grpo'"):
        read_checkpoint(tmp_path, "grpo")


def test_only_the_newest_are_kept_and_half_written_ones_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-step_00000009").mkdir()
    for step in range(4):
        write_checkpoint(tmp_path, step, "grpo", parts(1.0), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, "grpo", parts(1.0))
    write_checkpoint(tmp_path, 1, "grpo", parts(2.0))
    checkpoint = read_checkpoint(tmp_path, "grpo")
    assert checkpoint is not None
    assert checkpoint.parts["policy"]["weight"][0] == 2.0  # type: ignore[index]


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.standard_normal()), float(torch.rand(()))

    draw()
    write_checkpoint(tmp_path, 1, "grpo", {"random": random_state()})
    expected = draw()
    checkpoint = read_checkpoint(tmp_path, "grpo")
    assert checkpoint is not None
    restore_random_state(checkpoint.parts["random"])  # type: ignore[arg-type]
    assert draw() == expected


def test_a_fingerprint_tells_policies_apart() -> None:
    tensors = {"a": torch.zeros(10_000), "b": torch.ones(3)}
    assert fingerprint(tensors) == fingerprint({name: tensor.clone() for name, tensor in tensors.items()})
    assert fingerprint(tensors) != fingerprint({**tensors, "a": torch.ones(10_000)})
    assert fingerprint(tensors) != fingerprint({**tensors, "b": torch.ones(3, 1)})


def test_the_hash_of_tensors_sees_every_bit() -> None:
    tensors = {"a": torch.zeros(4), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    assert sha256_of_tensors(tensors) == sha256_of_tensors(dict(reversed(tensors.items())))
    changed = {**tensors, "a": torch.tensor([0.0, 0.0, -0.0, 0.0])}
    assert sha256_of_tensors(changed) != sha256_of_tensors(tensors)
    assert sha256_of_tensors({**tensors, "a": torch.zeros(2, 2)}) != sha256_of_tensors(tensors)
