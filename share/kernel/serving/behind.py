"""The one thread behind the answers: what it does delays none of them, and how much waits for it is bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from share.kernel.errors import EngineClosed
from share.kernel.events import whereabouts
from share.kernel.serving.troubles import Troubles

Result = TypeVar("Result")
Work = Callable[[], None]


class Behind:
    """Does pieces of work in the order in which they came. What one of them raises is noted, and the next is done."""

    def __init__(self, limit: int, troubles: Troubles) -> None:
        self._limit = limit
        self._troubles = troubles
        self._works: deque[Work] = deque()
        self._changed = threading.Condition()
        self._num_open = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="behind-the-answers", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many wait or are being done."""
        return self._num_open

    def offer(self, work: Work) -> bool:
        """Do it when its turn comes; False, and it is not done, when as many wait as may, or after `close`."""
        with self._changed:
            if self._is_closed or self._num_open >= self._limit:
                return False
            self._put(work)
            return True

    def take(self, work: Work) -> bool:
        """As `offer`, for what is bounded elsewhere: only `close` refuses it."""
        with self._changed:
            if self._is_closed:
                return False
            self._put(work)
            return True

    def ask(self, work: Callable[[], Result]) -> Result:
        """Do it when its turn comes, and wait for what it returns or raises. Raises EngineClosed after `close`."""
        done: Future[Result] = Future()

        def tell() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        if not self.take(tell):
            raise EngineClosed("the engine is ending")
        return done.result()

    def close(self) -> None:
        """Finish what was accepted, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, work: Work) -> None:
        self._works.append(work)
        self._num_open += 1
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._works and not self._is_closed:
                    self._changed.wait()
                if not self._works:
                    return
                work = self._works.popleft()
            try:
                work()
            except Exception as error:  # the thread is the boundary: no piece of work may take the next one with it
                self._troubles.note("behind_failed", type(error).__name__, whereabouts(error))
            with self._changed:
                self._num_open -= 1


__all__ = ["Behind", "Work"]
