"""Words, digits and letters drawn at random: what the texts of the redaction benchmark are made of."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from random import Random

Draw = Callable[[Random], str]


def words(text: str) -> list[str]:
    return text.split()


FIRST = words("anna ben carla dmitri elif farid grace hiro ines jonas kavita li maría noah olga pedro rosa sven yusuf")
LAST = words("schmidt novak garcía okafor tanaka rossi müller dubois singh kim larsson costa o'neill haddad moreau")


def of_pattern(random: Random, pattern: str) -> str:
    """`#` any digit, `%` 1 to 9, `N` 2 to 9, `A` a capital, `a` a small letter, `h` a hexadecimal digit."""
    drawn = {
        "#": string.digits,
        "%": "123456789",
        "N": "23456789",
        "A": string.ascii_uppercase,
        "a": string.ascii_lowercase,
        "h": "0123456789abcdef",
    }
    return "".join(random.choice(drawn[c]) if c in drawn else c for c in pattern)


def filled(random: Random, template: str) -> str:
    """A text whose parts in braces are drawn as `of_pattern` draws them."""
    return re.sub(r"\{(.*?)\}", lambda match: of_pattern(random, match[1]), template)


def characters(random: Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.choice(alphabet) for _ in range(count))


def until(random: Random, draw: Draw, is_sound: Callable[[str], bool]) -> str:
    while not is_sound(value := draw(random)):
        pass
    return value


def grouped(text: str, sizes: tuple[int, ...], separator: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    return separator.join(part for part in [*parts, text[at:]] if part)


def person(random: Random) -> str:
    return f"{random.choice(FIRST)} {random.choice(LAST)}".title()


def birth(random: Random) -> tuple[int, int, int]:
    return random.randrange(1940, 2010), random.randrange(1, 13), random.randrange(1, 29)


def of_formats(*patterns: str) -> Draw:
    return lambda random: of_pattern(random, random.choice(patterns))


__all__ = [
    "FIRST",
    "LAST",
    "Draw",
    "birth",
    "characters",
    "filled",
    "grouped",
    "of_formats",
    "of_pattern",
    "person",
    "until",
    "words",
]
