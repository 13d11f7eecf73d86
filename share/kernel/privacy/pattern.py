"""A pattern of personal data: a regular expression and, where the shape alone says too little, a check of the digits
and of the words before.

All repetitions are bounded, so the time is linear in the text whatever it is. No expression matches MASK, the character
that stands for what was found before; negated classes therefore name it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Entity = Literal["BIRTHDATE", "CARD", "EMAIL", "IBAN", "IP", "KEY", "MAC", "NATIONAL_ID", "PHONE"]

MASK = "\ue000"
"""A character of the private use area, which is neither letter, digit, space nor punctuation."""

SPACES = r"[ \u00a0\u2007\u2009\u202f]"
GAP = r"[ \u00a0\u2007\u2009\u202f.\-\u2010-\u2013]"
"""What stands between the digits of one number."""

MANY_DIGITS = re.compile(rf"\d(?:[^\w\n,{MASK}]{{0,3}}\d){{6}}")
"""Without seven digits near one another there is no number of an account, a person or a telephone."""

_CONTEXT_CHARACTERS = 48

Check = Callable[[str, re.Match[str]], tuple[int, int] | None]
"""Where in a text the personal data of a match is, None if it is none."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One shape of an entity. `needs` must be found somewhere in a text, or looking for the shape may be saved."""

    entity: Entity
    shape: re.Pattern[str]
    check: Check
    needs: re.Pattern[str]

    def find(self, text: str) -> list[tuple[int, int]]:
        """Where it is, in order, none overlapping."""
        found: list[tuple[int, int]] = []
        for match in self.shape.finditer(text):
            span = self.check(text, match)
            if span is not None and (not found or span[0] >= found[-1][1]):
                found.append(span)
        return found


def regex(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE | re.VERBOSE)


def any_of(words: str) -> str:
    """An alternation of words; `~` in one stands for a space."""
    return "|".join(words.split()).replace("~", r"\ ")


def whole(text: str, match: re.Match[str]) -> tuple[int, int]:
    """The group `found`, or all of it."""
    return match.span("found") if "found" in match.re.groupindex else match.span()


def if_sound(is_sound: Callable[[str], bool], context: re.Pattern[str] | None = None) -> Check:
    """If its characters pass the check; with `context`, only after words that say what it is."""

    def check(text: str, match: re.Match[str]) -> tuple[int, int] | None:
        if not is_sound(compact(match.group())) or (context and not context.search(words_before(text, match.start()))):
            return None
        return match.span()

    return check


def compact(text: str) -> str:
    """Letters in upper case and digits, in ASCII where they are digits of another script; no separators."""
    return "".join(str(int(c)) if c.isdecimal() else c.upper() for c in text if c.isalnum())


def words_before(text: str, start: int) -> str:
    """The words before, as far as nothing else was found among them."""
    return text[max(0, start - _CONTEXT_CHARACTERS) : start].rpartition(MASK)[2]


__all__ = [
    "GAP",
    "MANY_DIGITS",
    "MASK",
    "SPACES",
    "Check",
    "Entity",
    "Pattern",
    "any_of",
    "compact",
    "if_sound",
    "regex",
    "whole",
    "words_before",
]
