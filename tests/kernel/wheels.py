"""Distributions for tests: small installed ones in a directory, as `pip install --target` would leave them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent


def install(
    site: Path,
    distribution: str,
    files: Mapping[str, str],
    entry_points: Mapping[str, str],
    *,
    version: str = "1.0",
    requires: tuple[str, ...] = (),
) -> Path:
    """Write modules and metadata below `site`; with `site` on the path the distribution is installed."""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(dedent(text))
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
    extras = sorted({line.split("'")[1] for line in requires if "extra ==" in line})
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "RECORD").write_text("")
    points = "\n".join(f"{name} = {module}" for name, module in entry_points.items())
    (info / "entry_points.txt").write_text(f"[pixelis]\n{points}\n")
    return info


def operation_plugin(name: str, target: str, *, extra: str | None = None) -> str:
    """The text of a plugin module that registers one operation."""
    more = f", extra={extra!r}" if extra else ""
    return (
        "from share.kernel import hookimpl\n\n\n"
        "@hookimpl\n"
        "def register_operations(register):\n"
        f"    register({name!r}, {target!r}, summary='For a test.'{more})\n"
    )


BROKEN = {
    "raises at import": ("raise RuntimeError('at import')", "RuntimeError: at import"),
    "does not parse": ("def (", "SyntaxError"),
    "exits at import": ("raise SystemExit(3)", "SystemExit: 3"),
    "lacks a module": ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
    "has no hook": ("x = 1", "implements no hook"),
    "misspells a hook": (
        "from share.kernel import hookimpl\n@hookimpl\ndef register_operation(register): ...",
        "no hook 'register_operation'; did you mean 'register_operations'?",
    ),
    "takes other arguments": (
        "from share.kernel import hookimpl\n@hookimpl\ndef register_operations(register, more): ...",
        "more",
    ),
    "is refused midway": (
        operation_plugin("PARTLY", "a:b") + "\n@hookimpl\ndef register_tasks(register, more): ...",
        "more",
    ),
    "raises what cannot be shown": (
        "class Mute(Exception):\n    def __str__(self):\n        raise ValueError\n\nraise Mute",
        "Mute",
    ),
    "asks for a newer hook API": (operation_plugin("NEWER", "a:b") + "\npixelis_hook_api = 99", "hook API 99"),
    "asks for a strange hook API": (operation_plugin("STRANGE", "a:b") + "\npixelis_hook_api = 'x'", "whole number"),
    "has a bad target": (operation_plugin("BAD", "no colon"), "module:attribute"),
    "has a bad name": (operation_plugin("not a name", "a:b"), "a name is letters"),
}
"""Plugin modules that are broken, by how, each with a part of the reason that is shown."""

COUNTING_PLUGIN = """
from share.kernel import hookimpl


@hookimpl
def register_trainers(register):
    register("counting", "counting.train:train", summary="Counts steps.")
"""

COUNTING_TRAIN = '''
"""A trainer that counts: it can be slow, fail, be stopped and be resumed."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING

from share.kernel import ConfigModel, Interrupted

if TYPE_CHECKING:
    from share.kernel import RunContext


class CountingConfig(ConfigModel):
    steps: int = 3
    pause_s: float = 0.0
    fail_at: int | None = None
    exit_at: int | None = None


def train(config: CountingConfig, run: RunContext) -> None:
    state = run.run_dir / "step.txt"
    first = int(state.read_text()) if run.resume and state.exists() else 0
    for step in range(first, 2 if run.dry_run else config.steps):
        if run.stop.is_set():
            raise Interrupted(f"stopped before step {step}")
        if step == config.fail_at:
            raise ValueError("asked to\\nfail")
        if step == config.exit_at:
            raise SystemExit("asked to exit")
        state.write_text(str(step + 1))
        run.metrics["count"] = step + 1
        run.metrics["loss"] = float("nan")
        run.artifacts["state"] = state
        run.logger.info("step", f"step {step}", step=step)
        print("step", step, flush=True)
        time.sleep(config.pause_s)
'''


def install_counting(site: Path) -> None:
    """Install the trainer `counting`."""
    files = {"counting/plugin.py": COUNTING_PLUGIN, "counting/train.py": COUNTING_TRAIN}
    install(site, "counting", files, {"counting": "counting.plugin"})
