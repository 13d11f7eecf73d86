"""Check digits and structure of numbers that name a person, an account or a machine: what sets them apart from others.

Every function takes the characters without separators, letters in upper case, and is pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from ipaddress import AddressValueError, IPv6Address

_IBANS = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27
GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24
ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24
TR26 UA29 VA22 VG24 XK20"""
IBAN_LENGTHS = {told[:2]: int(told[2:]) for told in _IBANS.split()}
"""Characters of an IBAN by country (SWIFT's registry)."""

_CARD_PREFIXES = (
    # first, last prefix; lengths (ISO/IEC 7812 ranges of the networks; 13-digit Visa numbers are no longer given out)
    ("34", "34", (15,)),
    ("37", "37", (15,)),
    ("4", "4", (16, 19)),
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),
    ("6011", "6011", (16, 19)),
    ("644", "659", (16, 19)),
    ("300", "305", (14, 16)),
    ("36", "36", (14, 16)),
    ("38", "39", (14, 16)),
    ("3500", "3599", (16, 19)),
    ("2131", "2131", (15,)),
    ("1800", "1800", (15,)),
    ("62", "62", (16, 17, 18, 19)),
    ("5018", "5020", (16, 17, 18, 19)),
    ("5038", "5038", (16, 17, 18, 19)),
    ("56", "58", (16, 17, 18, 19)),
    ("6304", "6304", (16, 17, 18, 19)),
    ("6759", "6763", (16, 17, 18, 19)),
    ("2200", "2204", (16, 19)),
)
_VERHOEFF_PRODUCT = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_VERHOEFF_PERMUTATION = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)
_FISCAL_DIGITS = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_FISCAL_LETTERS = (*_FISCAL_DIGITS, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_FISCAL_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (*_FISCAL_DIGITS, *_FISCAL_LETTERS), strict=True))


def has_luhn(digits: str) -> bool:
    """Luhn's check digit, the last one."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """A payment card's number: prefix and length of a network, Luhn's digit, more than two different digits."""
    if len(set(digits)) <= 2 and digits[1:] == digits[0] * (len(digits) - 1):
        return False
    known = any(
        first <= digits[: len(first)] <= last and len(digits) in lengths for first, last, lengths in _CARD_PREFIXES
    )
    return known and has_luhn(digits)


def is_iban(characters: str) -> bool:
    """ISO 13616: length of the country, mod 97."""
    return IBAN_LENGTHS.get(characters[:2]) == len(characters) and _mod_97(characters[4:] + characters[:4]) == 1


def has_verhoeff(digits: str) -> bool:
    """Verhoeff's check digit, the last one (Aadhaar)."""
    state = 0
    for place, digit in enumerate(reversed(digits)):
        state = int(_VERHOEFF_PRODUCT[state][int(_VERHOEFF_PERMUTATION[place % 8][int(digit)])])
    return state == 0


def is_german_tax_id(digits: str) -> bool:
    """Eleven digits: among the first ten one comes twice or three times; ISO 7064 mod 11, 10."""
    counts = sorted(digits[:10].count(digit) for digit in set(digits[:10]))
    if digits[0] == "0" or counts[-1] not in (2, 3) or counts[-2] != 1:
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def is_french_id(characters: str) -> bool:
    """NIR: sex, year, month, department (2A, 2B of Corsica), and 97 minus the rest mod 97."""
    number = characters[:13].replace("2A", "19", 1).replace("2B", "18", 1) if not characters.isdigit() else characters
    number = number[:13]
    return number.isdigit() and characters[13:].isdigit() and 97 - int(number) % 97 == int(characters[13:])


def is_spanish_id(characters: str) -> bool:
    """DNI and NIE: a letter by the number mod 23."""
    number = characters[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == characters[-1]


def is_fiscal_code(characters: str) -> bool:
    """Italy's codice fiscale: a letter by odd and even places."""
    total = sum(_FISCAL_ODD[character] for character in characters[:15:2])
    total += sum(int(c) if c.isdigit() else ord(c) - ord("A") for c in characters[1:15:2])
    return chr(ord("A") + total % 26) == characters[15]


def is_dutch_id(digits: str) -> bool:
    """BSN: the test of eleven."""
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return any(map(int, digits)) and _weighted(digits, weights) % 11 == 0


def is_polish_id(digits: str) -> bool:
    """PESEL: a date of birth whose month holds the century, and a check digit."""
    month = int(digits[2:4])
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20]
    if not is_date(century + int(digits[:2]), month % 20, int(digits[4:6])):
        return False
    return _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def is_brazilian_id(digits: str) -> bool:
    """CPF: two check digits mod 11."""
    if len(set(digits)) == 1:
        return False
    first = _weighted(digits[:9], range(10, 1, -1)) * 10 % 11 % 10
    second = _weighted(digits[:10], range(11, 1, -1)) * 10 % 11 % 10
    return (first, second) == (int(digits[9]), int(digits[10]))


def is_chinese_id(characters: str) -> bool:
    """Eighteen characters: a date of birth, ISO 7064 mod 11-2."""
    if not is_date(int(characters[6:10]), int(characters[10:12]), int(characters[12:14])):
        return False
    total = _weighted(characters[:17], [2**place % 11 for place in range(17, 0, -1)])
    return "10X98765432"[total % 11] == characters[17]


def is_swedish_id(digits: str) -> bool:
    """Personnummer: the last ten digits have Luhn's; a day above 60 marks a coordination number."""
    digits = digits[-10:]
    day = int(digits[4:6])
    return is_date(2000, int(digits[2:4]), day - 60 if day > 60 else day) and has_luhn(digits)


def is_korean_id(digits: str) -> bool:
    """RRN: a date of birth; those given out since 2020 have no check digit."""
    return is_date(2000, int(digits[2:4]), int(digits[4:6]))


def is_finnish_id(characters: str) -> bool:
    """HETU: a date of birth; a character by the nine digits mod 31. The sign of the century may be left out."""
    digits = characters[:6] + characters[-4:-1]
    if not is_date(2000, int(digits[2:4]), int(digits[:2])):
        return False
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == characters[-1]


def is_austrian_id(digits: str) -> bool:
    """Social insurance number: the fourth digit checks the others, the last six are a date of birth."""
    if not is_date(2000, int(digits[6:8]), int(digits[4:6])):
        return False
    return _weighted(digits[:3] + digits[4:], (3, 7, 9, 5, 8, 4, 2, 1, 6)) % 11 == int(digits[3])


def is_swiss_id(digits: str) -> bool:
    """AHV number: the check digit of an EAN-13."""
    return _weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


def is_ipv6(text: str) -> bool:
    """An address in full, or one that machines are given: global, unique local or link local."""
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return False
    if text.count(":") == 7 and "::" not in text:
        return True
    return address.packed[0] >> 5 == 1 or address.is_link_local or address.packed[0] in (0xFC, 0xFD)


def is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _weighted(digits: str, weights: Iterable[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))


def _mod_97(characters: str) -> int:
    return int("".join(str(int(character, 36)) for character in characters)) % 97


__all__ = [
    "IBAN_LENGTHS",
    "has_luhn",
    "has_verhoeff",
    "is_austrian_id",
    "is_brazilian_id",
    "is_card",
    "is_chinese_id",
    "is_date",
    "is_dutch_id",
    "is_finnish_id",
    "is_fiscal_code",
    "is_french_id",
    "is_german_tax_id",
    "is_iban",
    "is_ipv6",
    "is_korean_id",
    "is_polish_id",
    "is_spanish_id",
    "is_swedish_id",
    "is_swiss_id",
]
