"""Personal data in a text, replaced by what kind it is: `write to <EMAIL>`. Nothing else may be written to a disk.

It is found by shape and check digits, so names of people and places are not found: that needs a language model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from share.kernel.config import ConfigModel
from share.kernel.privacy.pattern import MASK, Entity
from share.kernel.privacy.patterns import PATTERNS

ENTITIES: tuple[Entity, ...] = get_args(Entity)
PASSES_MAX = 8
_PLACEHOLDER = re.compile(f"<(?:{'|'.join(ENTITIES)}|WITHHELD)>")


class RedactionConfig(ConfigModel):
    """What is replaced."""

    entities: tuple[Entity, ...] = ENTITIES
    """Kinds of personal data; all of them by default."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where something was found: `text[start:end]` of the text that was given, which it does not hold itself."""

    entity: Entity | Literal["WITHHELD"]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text that may be kept, and what was replaced in it, in order, none overlapping."""

    text: str
    spans: tuple[Span, ...]


class Redactor:
    """Replaces personal data by `<EMAIL>`, `<PHONE>` and so on. Pure, thread-safe, in time linear in the text.

    What it returns stays the same when it is given again. A text in which replacing goes on revealing more, which
    nobody writes by chance, is withheld whole.
    """

    def __init__(self, config: RedactionConfig) -> None:
        self.config = config
        self._patterns = [pattern for pattern in PATTERNS if pattern.entity in config.entities]
        self._needs = {pattern.needs for pattern in self._patterns}

    def redact(self, text: str) -> Redacted:
        masked = _masked(text, [match.span() for match in _PLACEHOLDER.finditer(text)])
        # What is covered later never adds what a pattern needs.
        needs = {needed: needed.search(masked) is not None for needed in self._needs}
        patterns = [pattern for pattern in self._patterns if needs[pattern.needs]]
        spans: list[Span] = []
        for _ in range(PASSES_MAX):
            found_before = len(spans)
            for pattern in patterns:
                if found := pattern.find(masked):
                    masked = _masked(masked, found)
                    spans += [Span(pattern.entity, start, end) for start, end in found]
            if len(spans) == found_before:
                return _replaced(text, sorted(spans, key=lambda span: span.start))
        return _replaced(text, [Span("WITHHELD", 0, len(text))])


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with what was found covered, each character by one."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], MASK * (stop - start)]
        end = stop
    return "".join([*parts, text[end:]])


def _replaced(text: str, spans: list[Span]) -> Redacted:
    parts, end = [], 0
    for span in spans:
        parts += [text[end : span.start], f"<{span.entity}>"]
        end = span.end
    return Redacted("".join([*parts, text[end:]]), tuple(spans))


__all__ = ["ENTITIES", "PASSES_MAX", "Redacted", "RedactionConfig", "Redactor", "Span"]
