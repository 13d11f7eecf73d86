"""What a rollout in the making tells of its answer: the text as it is written, and how sure the policy is of it."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from share.kernel.contracts.serving import Listener
    from share.kernel.contracts.trajectory import Action
    from share.kernel.policy.chat import Chat

_OPEN, _CLOSE, _CALL = "<answer>", "</answer>", "<tool_call>"
_ANSWER = re.compile(rf"{_OPEN}(.*?){_CLOSE}", re.DOTALL)


class AnswerWatch:
    """Follows a rollout (a `Watcher`): lets a listener read the answer while it is written, and measures it.

    `confidence` is exp of the mean log-probability of the answer's tokens, in [0, 1], `entropy` the mean entropy of the
    distributions that they were taken from, in nats, both at temperature 1. Without an answer they are 0.
    """

    def __init__(self, chat: Chat, listener: Listener | None) -> None:
        self.chat = chat
        self.listener = listener
        self.confidence = 0.0
        self.entropy = 0.0
        self._begin_turn()

    @property
    def is_gone(self) -> bool:
        return self.listener is not None and self.listener.is_gone

    def wrote(self, token: int, logprob: float, entropy: float, /) -> None:
        if token == self.chat.end_id:
            return
        self._ids.append(token)
        self._logprobs.append(logprob)
        self._entropies.append(entropy)
        if self.listener is not None:
            shown = self._text.read(self._ids)
            if shown:
                self.listener.wrote(shown)

    def acted(self, action: Action, /) -> None:
        if action.kind == "answer":
            first, stop = answer_span(self.chat, self._ids)
            self.confidence = math.exp(sum(self._logprobs[first:stop]) / (stop - first))
            self.entropy = sum(self._entropies[first:stop]) / (stop - first)
        elif action.observation is not None and action.kind == "operation" and self.listener is not None:
            self.listener.acted(action)
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._entropies: list[float] = []
        self._text = _AnswerText(self.chat)


class _AnswerText:
    """The answer inside a turn as far as it is certain: nothing that may yet turn out to be a tag, or space at its end.

    What was read adds up to the answer. Of a turn that answers and never closes the tag, it is what was written so far.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._whole = ""
        self._settled, self._read = 0, 0
        self._shown = 0

    def read(self, ids: Sequence[int]) -> str:
        """What has become certain with the last of the turn's `ids`."""
        # Tokens are decoded together with those before them, back to where a character was last complete.
        before = self._chat.text(ids[self._settled : self._read])
        after = self._chat.text(ids[self._settled :])
        if after.endswith("\ufffd"):
            return ""
        self._whole += after[len(before) :]
        self._settled, self._read = self._read, len(ids)
        start, call = self._whole.find(_OPEN), self._whole.find(_CALL)
        if start < 0 or 0 <= call < start:
            return ""
        answer, closed, _ = self._whole[start + len(_OPEN) :].partition(_CLOSE)
        if not closed:
            held = next((size for size in range(len(_CLOSE) - 1, 0, -1) if answer.endswith(_CLOSE[:size])), 0)
            answer = answer[: len(answer) - held]
        answer = answer.strip()
        shown, self._shown = answer[self._shown :], len(answer)
        return shown


def answer_span(chat: Chat, ids: Sequence[int]) -> tuple[int, int]:
    """The tokens `first` to `stop` of a turn that its answer is made of; all of the turn's when the answer is empty."""
    whole = chat.text(ids)
    match = _ANSWER.search(whole)
    assert match is not None, "only of a turn that answers"
    counts = range(len(ids) + 1)
    first = bisect.bisect_right(counts, match.start(1), key=lambda count: len(chat.text(ids[:count]))) - 1
    # By the text and not by its length: half a character is one character long as well.
    upto = whole[: match.end(1)]
    stop = bisect.bisect_left(counts, True, key=lambda count: chat.text(ids[:count]).startswith(upto))
    return (first, stop) if first < stop else (0, len(ids))


__all__ = ["AnswerWatch", "answer_span"]
