"""A soak in a process of its own, beside whatever else is tested."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
START_S = 600.0
"""Seconds that its start and its end may take on a busy machine."""

RATE = 0.5
"""Questions per second: few, because the other tests want the processor too."""

NICE = 10


def minutes() -> float:
    """How long it takes; `SOAK_MINUTES` makes it shorter for whoever works on it."""
    return float(os.environ.get("SOAK_MINUTES", "5"))


class Soaking:
    """A soak that runs, with its report below `output`. Everything that it started is in its process group."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="soaking-")
        self.output = Path(self._directory.name)
        arguments = [f"--minutes={minutes()}", f"--rate={RATE}", f"--output={self.output}"]
        with (self.output / "said.txt").open("w") as said:
            self.process = subprocess.Popen(
                ["nice", f"-n{NICE}", sys.executable, "-m", "benchmarks.soak", *arguments],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": self._directory.name},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> str:
        """What it said, when it has ended."""
        self.process.wait()
        return (self.output / "said.txt").read_text()

    def end(self) -> None:
        """Nothing of it is left, however far it got."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._directory.cleanup()


__all__ = ["NICE", "RATE", "START_S", "Soaking", "minutes"]
