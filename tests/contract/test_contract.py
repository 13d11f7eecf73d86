"""Every registered backend keeps the contract of its kind, ours as any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from share.kernel.contracts.vision import Scene
from share.kernel.registry import load_registry
from share.kernel.testing import (
    build,
    check_index,
    check_operation,
    check_reward,
    check_storage,
    check_task,
    check_voter,
    example_scene,
)

REGISTRY = load_registry()

EXAMPLES = {
    "GET_PROPERTIES": [{"bbox": [26, 34, 54, 62]}],
    "READ_TEXT": [{}, {"bbox": [0, 0, 60, 40]}],
    "SEGMENT_OBJECT_AT": [{"x": 40, "y": 48}],
    "TRACK_OBJECT": [{"bbox": [26, 34, 54, 62]}],
    "ZOOM_IN": [{"bbox": [26, 34, 54, 62]}, {"bbox": [0, 0, 128, 96], "image": "image_1"}],
}


def ours(kind: str) -> list[str]:
    return [name for name in REGISTRY.names(kind) if REGISTRY.origin(kind, name).plugin.distribution == "pixelis"]


@pytest.mark.parametrize("name", ours("operation"))
def test_an_operation_keeps_the_contract(name: str) -> None:
    def scene() -> Scene:
        return example_scene(is_video=name == "TRACK_OBJECT")

    check_operation(build(REGISTRY, "operation", name), *EXAMPLES[name], scene=scene)


@pytest.mark.parametrize("name", ours("buffer"))
def test_a_storage_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_storage(build(REGISTRY, "buffer", name), tmp_path)


@pytest.mark.parametrize("name", ours("index"))
def test_an_index_keeps_the_contract(name: str) -> None:
    check_index(build(REGISTRY, "index", name))


@pytest.mark.parametrize("name", ours("reward"))
def test_a_reward_keeps_the_contract(name: str) -> None:
    check_reward(build(REGISTRY, "reward", name))


@pytest.mark.parametrize("name", [name for name in ours("task") if name not in ("hf_dataset", "jsonl")])
def test_a_task_keeps_the_contract(name: str) -> None:
    check_task(build(REGISTRY, "task", name))


@pytest.mark.parametrize("name", ours("voter"))
def test_a_voter_keeps_the_contract(name: str) -> None:
    check_voter(build(REGISTRY, "voter", name))


def test_every_backend_of_ours_imports_and_describes_each_setting() -> None:
    for backend in REGISTRY.backends():
        if backend.plugin.distribution == "pixelis":
            model = REGISTRY.config_model(backend.kind, backend.name)
            undescribed = [name for name, field in model.model_fields.items() if not field.description]
            assert not undescribed, f"{model.__name__}: {undescribed}"
            assert backend.summary, backend.name
