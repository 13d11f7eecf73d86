"""What a person sees of a training while it goes: a progress bar, the trackers of accelerate, the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm

from share.kernel.contracts.run import RunContext
from share.kernel.report.trackers import Tracking

LINE_EVERY_S = 10.0
"""Without a terminal the bar is replaced by one line at most this often."""


class Monitor:
    """Shows numbers by step. `trackers` are names of accelerate's; `auto` uses those of tensorboard and wandb that
    can be started. What was chosen is kept in `tracker_names`."""

    def __init__(self, run: RunContext, *, steps: int, done: int, trackers: Sequence[str], title: str) -> None:
        self._run = run
        self._title = title
        self._steps = steps
        self._done = done
        self._shown_at = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=done, desc=title, unit="step", disable=not self._terminal, leave=True)
        self._tracking = Tracking(trackers, run.run_dir, run.run_id, run.logger, dry_run=run.dry_run)
        self.tracker_names = self._tracking.names

    def __enter__(self) -> Self:
        if self._run.resume:
            after = f"after step {self._done} of {self._steps}" if self._done else "from step 0: no checkpoint yet"
            self.say(f"{self._title} goes on {after}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()
        self._tracking.close()

    def step(self, step: int, numbers: Mapping[str, float], shown: Mapping[str, str]) -> None:
        """Record the numbers of a step everywhere; `shown` is what fits beside the bar."""
        self._run.logger.info("train.step", f"step {step} of {self._steps}", step=step, **numbers)
        self.track(step, numbers)
        self._bar.set_postfix(dict(shown), refresh=False)
        self._bar.update(1)
        if not self._terminal and (time.monotonic() - self._shown_at > LINE_EVERY_S or step in (1, self._steps)):
            self._shown_at = time.monotonic()
            self.say(f"{self._title} {step}/{self._steps}  " + "  ".join(f"{key} {shown[key]}" for key in shown))

    def track(self, step: int, numbers: Mapping[str, float]) -> None:
        self._tracking.log(step, numbers)

    def say(self, line: str) -> None:
        """One line for a person, beside the bar."""
        tqdm.write(line, file=sys.stderr)


__all__ = ["LINE_EVERY_S", "Monitor"]
