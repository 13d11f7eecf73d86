"""The house keeps its own manners: lint, types, layers, exports, documents, configurations, no dead file."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from share.kernel.config import read_yaml, validate, with_run_settings
from share.kernel.hookspecs import KINDS
from share.kernel.kernel import KIND_OF_MODE
from share.kernel.registry import Registry
from share.kernel.schema import run_schema

ROOT = Path(__file__).parent.parent
PACKAGES = ("autolabel", "benchmarks", "deploy", "online", "share", "train")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
COMMANDS = {"__main__", "cli"}
"""Modules that are run, not imported."""

FAMILIES = sorted(path.parent for path in (ROOT / "share/kernel").glob("*/plugin.py"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*argv: str) -> None:
    done = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_ruff_has_nothing_to_say() -> None:
    run("ruff", "check", "--quiet", ".")
    run("ruff", "format", "--quiet", "--check", ".")


@pytest.mark.timeout(1800)  # 42 s of CPU without a cache; minutes on a busy machine
def test_the_types_hold() -> None:
    run("mypy")


def test_imports_flow_down() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_plugin_family_is_an_entry_point_and_in_the_import_contracts() -> None:
    names = [f"share.kernel.{family.name}" for family in FAMILIES]
    assert sorted(SETTINGS["project"]["entry-points"]["pixelis"].values()) == [f"{name}.plugin" for name in names]
    layers, independence, by_name = SETTINGS["tool"]["importlinter"]["contracts"]
    assert independence["modules"] == names
    assert by_name["forbidden_modules"] == names
    assert any(all(name in layer for name in names) for layer in layers["layers"])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_and_exports_all_that_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} begins with what it is"
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    is_run = path.stem in COMMANDS or 'if __name__ == "__main__":' in path.read_text()
    if not path.is_relative_to(ROOT / "share") or is_run or path.stem in {"plugin", "hookspecs", "errors"}:
        return
    exports = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "__all__"
        and isinstance(node.value, ast.List)
    ]
    assert exports or not defined, f"{path} has no __all__"
    missing = defined - set(exports[0]) if exports else set()
    assert not missing, f"{path}: __all__ lacks {', '.join(sorted(missing))}"


def test_no_module_is_dead(registry: Registry) -> None:
    used = {backend.target.partition(":")[0] for backend in registry.backends()}
    used |= set(SETTINGS["project"]["entry-points"]["pixelis"].values())
    for path in [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    dead = [
        name_of(path)
        for path in MODULES
        if name_of(path) not in used
        and path.name != "__init__.py"
        and 'if __name__ == "__main__":' not in path.read_text()
    ]
    assert not dead


def test_every_hook_is_documented() -> None:
    document = (ROOT / "docs/plugins.md").read_text()
    for kind, hook in KINDS.items():
        assert hook.__doc__, kind
        assert f"| `{hook.__name__}` | `{kind}` |" in document


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_of_the_repository_loads(
    path: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """configs/<mode>/<backend>[_<what for>].yaml, sparse, with comments."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("mine.png", np.zeros((8, 8, 3), np.uint8))  # what users bring
    line = json.dumps({"question": "What?", "image": "mine.png", "answer": "night"})
    Path("my-images.jsonl").write_text(f"{line}\n{line.replace('mine.png', './mine.png')}\n")
    kind = KIND_OF_MODE[path.parent.name]  # type: ignore[index]
    name = path.stem.partition("_")[0]
    config = read_yaml(path)
    assert config, "an empty file configures nothing"
    assert path.read_text().startswith("#"), "it begins with what it is for"
    validate(with_run_settings(registry.config_model(kind, name)), config, registry)


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_the_schema_of_a_trainer_is_the_one_in_the_repository(name: str, registry: Registry) -> None:
    """A change of settings is seen in review. `python -m share.kernel schema trainer NAME` writes the new one."""
    stored = json.loads((ROOT / f"configs/schema/trainer-{name}.json").read_text())
    of_ours = {backend.plugin.distribution for backend in registry.backends()}
    assert of_ours == {"pixelis"}, "the schemas are of an environment without other plugins"
    assert run_schema(registry, "trainer", name) == stored


def test_constraints_pin_what_pixelis_needs() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all("==" in line and "/" not in line and "+" not in line for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = SETTINGS["project"]
    needed = [
        *project["dependencies"],
        *project["optional-dependencies"]["cpu"],
        *project["optional-dependencies"]["dev"],
    ]
    assert {text.partition(">")[0].partition("=")[0] for text in needed} <= pinned
