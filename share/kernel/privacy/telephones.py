"""Telephone numbers: with a country's code, as they are written in a country, and any number that is called one."""

from __future__ import annotations

import re

from share.kernel.privacy.pattern import MANY_DIGITS, Pattern, any_of, regex, words_before

_SEP = r"[ \u00a0\u2009\u202f.\-/()\u2010-\u2013]"
_EXTENSION = r"(?:\s?(?:x|ext\.?|extension|durchwahl)\s?\d{1,6}(?!\w))"
_PLUS = re.compile(rf"\+(?<![\w+]\+)\(?[1-9](?:{_SEP}{{0,3}}\d){{6,14}}(?!\d){_EXTENSION}?", re.IGNORECASE)
_NANP = re.compile(
    r"(?<![\w.,+\-/])(?<!\d )(?:(?:\+?1|001)[ .\-]?)?(?:\([2-9]\d\d\)[ \-.]?|[2-9]\d\d[ .\-])[2-9]\d\d[ .\-]\d{4}"
    + rf"(?:{_EXTENSION}|(?![\w]|[.,\-/ ]\d))",
    re.IGNORECASE,
)
_TRUNK = re.compile(
    rf"(?<![\w.,+\-/])(?<!\d[ :])\(?0(?:0[1-9]|[1-9])(?:{_SEP}{{0,3}}\d){{7,13}}(?:{_EXTENSION}|(?!\w|[.,:]\d))",
    re.IGNORECASE,
)
_LOOSE = re.compile(rf"(?<![\w.,+\-/])\(?\d(?:{_SEP}{{0,2}}\d){{6,13}}(?!\d|[.,:]\d)")
_PHONES = any_of(
    """
    calls? calling phones? telephone tel mobile mob cell cellphone whatsapp fax sms text~(?:me|us|him|her|them) dial
    reach contact hotline landline (?:my|our|his|her|their|your)~number handy handynummer rufnummer telefon
    telefonnummer telefono teléfono móvil téléphone tél
    """
)
_PHONE_FILLERS = any_of(
    """
    no nr numbers? num is are at on me us him her them my the his their our back now under unter to via it or ist es
    est au al
    """
)
_OF_A_PHONE = regex(
    rf"""\b(?:{_PHONES})\b\.?
    (?:[ ](?:{_PHONE_FILLERS})\b\.?){{0,4}}[ :.\#(=]{{0,4}}$"""
)
_THINGS = any_of(
    """
    orders? invoice parts? serial model item sku ref reference tracking case ticket lot batch isbn issn ean upc gtin
    barcode version product shipment parcel booking reservation article patent docket catalog catalogue inventory
    asset container receipt confirmation frame doi imei id uuid no
    """
)
_OF_A_THING = regex(
    rf"""\b(?:{_THINGS})\b\.?
    (?:[ ](?:no|nr|number|num|id|code|is|was|reads|the|s/n)\b\.?){{0,3}}[ :.\#(=]{{0,4}}$|\#[ ]?$"""
)
_COORDINATE = re.compile(r"\+\d{1,3}\.\d{4,7}(?!\d)")
_LIKE_A_DATE = re.compile(
    r"\(?(?:\d{1,2}[./\- ]\d{1,2}[./\- ](?:19|20)\d\d|(?:19|20)\d\d[./\- ]\d{1,2}[./\- ]\d{1,2}"
    r"|(?:19|20)\d\d-(?:19|20)\d\d)(?!\d)"
)


def _phone(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """A number with its country's code, however it is written; what follows it may be another number."""
    number = match.group()
    if _COORDINATE.match(number):
        return None
    num_digits = 0
    for place, character in enumerate(number):
        is_over = num_digits == 11 and character.isdecimal() and number.startswith("+1") and "x" not in number.lower()
        if is_over or (num_digits >= 6 and character == "("):
            number = number[:place].rstrip(" .-/(")
            break
        num_digits += character.isdecimal()
    return (match.start(), match.start() + len(number)) if num_digits >= 8 else None


def _national(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """A number that begins with a trunk's zero, or as in North America, unless it is called something else."""
    number = match.group().strip("( )")
    groups = re.findall(r"\d+", number)
    if _LIKE_A_DATE.match(number) or _OF_A_THING.search(words_before(text, match.start())):
        return None
    is_called = _OF_A_PHONE.search(words_before(text, match.start()))
    if len(groups) == 1 and not is_called and (number.startswith("00") or len(number) not in (10, 11)):
        return None
    if max(map(len, groups)) <= 2 and len(groups) != 5:
        return None  # pairs: five of them are a French number, more or fewer are none
    if number.count(".") == 1 and len(groups) == 2 and not is_called:
        return None
    return _without_open_bracket(text, match)


def _loose(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """Any number that is called a telephone's."""
    number = match.group().strip("( )")
    if _LIKE_A_DATE.match(number) or not _OF_A_PHONE.search(words_before(text, match.start())):
        return None
    if "." in number and len(re.findall(r"\d+", number)) == 2:
        return None
    return _without_open_bracket(text, match)


def _without_open_bracket(text: str, match: re.Match[str]) -> tuple[int, int]:
    start, end = match.span()
    if text[start] == "(" and ")" not in match.group():
        start += 1
    return start, end


_PLUS_DIGIT = re.compile(r"\+\(?\d")

TELEPHONES: tuple[Pattern, ...] = (
    Pattern("PHONE", _PLUS, _phone, _PLUS_DIGIT),
    Pattern("PHONE", _NANP, _national, MANY_DIGITS),
    Pattern("PHONE", _TRUNK, _national, MANY_DIGITS),
    Pattern("PHONE", _LOOSE, _loose, MANY_DIGITS),
)

__all__ = ["TELEPHONES"]
