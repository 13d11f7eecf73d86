"""Writes a wheel project for an operation of your own: small, complete, its tests green before the first change."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from share.kernel.errors import ConfigError
from share.kernel.hookspecs import HOOK_API
from share.kernel.registry import normalized

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$distribution"
version = "0.1.0"
description = "The visual operation $operation for Pixelis"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["pixelis"]

[project.entry-points.pixelis]
$module = "$package.plugin"

[tool.setuptools.packages.find]
where = ["src"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["src"]
"""

_README = """\
# $distribution

The visual operation `$operation` for Pixelis: the mean brightness of a box, with the box cut out as a picture.
It is an example that works; change `src/$package/$module.py` into what you need.

    python -m pytest                 # the contract suite and your own tests
    pip install .                    # beside Pixelis
    python -m share.kernel plugins   # it is listed, with its origin and state
    python -m share.kernel run-operation $operation --image photo.png \\
        --arguments '{"bbox": [0, 0, 100, 100]}' --output out.png

A policy sees the class's docstring and the descriptions of the arguments: they are the prompt's tool schema. It is
offered the operations that its run names (`'operations=[$operation]'`) and calls those that it has been shown: see
docs/plugins.md of Pixelis.
"""

_INIT = '''"""The visual operation $operation for Pixelis."""
'''

_PLUGIN = '''"""Names what this distribution adds to Pixelis; a target is imported when it is used."""

from __future__ import annotations

from share.kernel import Register, hookimpl

pixelis_hook_api = $hook_api


@hookimpl
def register_operations(register: Register) -> None:
    register("$operation", "$package.$module:$class_name", summary="The mean brightness of a box.")
'''

_OPERATION = '''"""$operation: the mean brightness of a box of an image."""

from __future__ import annotations

from typing import ClassVar

from share.kernel import ConfigModel, OperationError, OperationResult, Scene, Transform


class ${class_name}Config(ConfigModel):
    side_min: int = 4
    """Boxes with a side below this many native pixels are refused."""


class ${class_name}Arguments(ConfigModel):
    bbox: tuple[float, float, float, float]
    """[x1, y1, x2, y2] in pixels of the image"""
    image: str | None = None
    """Name of the image, the first if omitted"""


class $class_name:
    """Measure how bright a box of an image is, from 0 (black) to 255 (white)."""

    Arguments: ClassVar[type[${class_name}Arguments]] = ${class_name}Arguments

    def __init__(self, config: ${class_name}Config) -> None:
        self.config = config

    def run(self, scene: Scene, arguments: ${class_name}Arguments, /) -> OperationResult:
        view = scene.view(arguments.image)
        x1, y1, x2, y2 = arguments.bbox
        if not (0 <= x1 < x2 <= view.width and 0 <= y1 < y2 <= view.height):
            raise OperationError(f"bbox: is not inside {view.name}, which is {view.width} x {view.height} pixels")
        # A view may be a resized picture: measure the native pixels that it shows.
        left, top, right, bottom = (round(side) for side in view.transform.box_to_native(arguments.bbox))
        if min(right - left, bottom - top) < self.config.side_min:
            raise OperationError(f"bbox: its sides must be at least {self.config.side_min} native pixels")
        cut = scene.native(view.source)[top:bottom, left:right].copy()
        brightness = float(cut.mean())
        return OperationResult(
            text=f"mean brightness {brightness:.1f} of 255",
            image=cut,
            data={"brightness": brightness},
            source=view.source,
            transform=Transform(offset_x=left, offset_y=top),
        )
'''

_TEST = '''"""Tests of $operation: the contract that every operation keeps, and what this one promises."""

from __future__ import annotations

import numpy as np
import pytest
from share.kernel import OperationError
from share.kernel.testing import check_operation, check_plugin, example_scene, run_operation

from $package import plugin
from $package.$module import $class_name, ${class_name}Config


@pytest.fixture
def operation() -> $class_name:
    return $class_name(${class_name}Config())


def test_the_plugin_can_be_registered() -> None:
    assert check_plugin(plugin) == [("operation", "$operation")]


def test_the_operation_keeps_the_contract(operation: $class_name) -> None:
    check_operation(operation, {"bbox": [10, 10, 40, 30]}, {"bbox": [10, 10, 40, 30], "image": "image_1"})


def test_brightness_is_the_mean_of_the_native_pixels(operation: $class_name) -> None:
    scene = example_scene()
    result = run_operation(operation, {"bbox": [10, 10, 40, 30]}, scene)
    assert result.data["brightness"] == pytest.approx(np.mean(scene.natives[0][10:30, 10:40]))


def test_a_tiny_box_is_refused_with_the_reason(operation: $class_name) -> None:
    with pytest.raises(OperationError, match="at least 4 native pixels"):
        run_operation(operation, {"bbox": [10, 10, 12, 12]}, example_scene())
'''


def write_project(directory: Path, operation: str) -> list[Path]:
    """Write the project and return its files. The directory's name becomes the distribution's.

    Raises ConfigError for a directory that is not empty and for names that cannot be one.
    """
    if not re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", operation):
        raise ConfigError(f"--operation: {operation!r} must be capitals, digits and single '_', like COUNT_RED")
    distribution = normalized(directory.absolute().name)
    package = distribution.replace("-", "_")
    if not package.isidentifier():
        raise ConfigError(f"{directory}: {directory.absolute().name!r} cannot be the name of a package")
    module = operation.lower()
    values = {
        "distribution": distribution,
        "package": package,
        "operation": operation,
        "module": module,
        "class_name": "".join(part.capitalize() for part in operation.split("_")),
        "hook_api": str(HOOK_API),
    }
    files = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"src/{package}/__init__.py": _INIT,
        f"src/{package}/plugin.py": _PLUGIN,
        f"src/{package}/{module}.py": _OPERATION,
        f"tests/test_{module}.py": _TEST,
    }
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(f"{directory}: is taken; name a new directory")
        for path, text in files.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(text).substitute(values), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from error
    return [directory / path for path in files]


__all__ = ["write_project"]
