"""Numbers of bank accounts and of payment cards."""

from __future__ import annotations

import re

from share.kernel.privacy import checks
from share.kernel.privacy.pattern import GAP, MANY_DIGITS, Pattern, compact, if_sound

_CARD = re.compile(
    rf"\d(?<!\d\d)(?<!\d[.,]\d)(?:\d{{3}}({GAP})\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{3}})?|\d{{3}}({GAP})\d{{6}}\2\d{{4,5}}|\d{{13,18}})(?!\d|[.,]\d)"
)
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}\d\d(?=(?:{GAP}?[A-Za-z0-9]){{11}})")
_IBAN_END = re.compile(rf"(?:{GAP}?[A-Za-z0-9]){{11,30}}")


def _iban(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """As many characters as an IBAN of its country has: the words after it are no part of it."""
    length = checks.IBAN_LENGTHS.get(match.group().upper()[:2])
    rest = _IBAN_END.match(text, match.end())
    if length is None or rest is None:
        return None
    count = 4
    for place in range(*rest.span()):
        count += text[place].isalnum()
        if count == length:
            is_end = place + 1 == len(text) or not text[place + 1].isalnum()
            is_sound = is_end and checks.is_iban(compact(text[match.start() : place + 1]))
            return (match.start(), place + 1) if is_sound else None
    return None


ACCOUNTS: tuple[Pattern, ...] = (
    Pattern("IBAN", _IBAN, _iban, MANY_DIGITS),
    Pattern("CARD", _CARD, if_sound(checks.is_card), MANY_DIGITS),
)

__all__ = ["ACCOUNTS"]
