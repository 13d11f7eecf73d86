"""A directory on the import path into which tests install distributions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Distributions installed here are found by this process, and by child processes through PYTHONPATH."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setenv("PYTHONPATH", str(directory))
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:  # another test may install a module of the same name
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(directory):
            del sys.modules[name]
    importlib.invalidate_caches()
