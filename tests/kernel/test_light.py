"""Help and listings answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("cv2", "faiss", "matplotlib", "numpy", "peft", "pydantic", "sklearn", "torch", "transformers", "yaml")

PROBE = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print(",".join(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command",
    [
        "train.cli --help",
        "share.kernel --help",
        "share.kernel run-operation --help",
        "share.kernel plugins",
        "share.kernel operations",
        "share.kernel backends --json",
        "share.kernel runs",
    ],
)
def test_nothing_heavy_is_imported_by(command: str) -> None:
    probe = PROBE.format(heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe, *command.split()], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


def test_plugin_authors_import_nothing_heavy() -> None:
    code = f"""
import sys
from share.kernel import OperationResult, RunContext, Scene, hookimpl, load_registry
import share.kernel.contracts.kinds
load_registry()
assert not [name for name in {HEAVY!r} if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_listed_in_order() -> None:
    import share.kernel

    for name in share.kernel.__all__:
        assert getattr(share.kernel, name) is not None
    assert dir(share.kernel) == sorted(share.kernel.__all__)
    with pytest.raises(AttributeError, match="no attribute 'hookimp'"):
        _ = share.kernel.hookimp
