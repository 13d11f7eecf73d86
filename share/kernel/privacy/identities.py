"""Numbers of people: what states give them, documents, and the date of birth."""

from __future__ import annotations

import re

from share.kernel.privacy import checks
from share.kernel.privacy.pattern import MANY_DIGITS, MASK, SPACES, Pattern, any_of, if_sound, regex, whole

_D = r"(?<![\w.,\-/+])"
_END = r"(?![\w]|[.,/\-]\w)"
_S = rf"{SPACES}?"
_SSN = re.compile(
    rf"{_D}(?!000|666)\d{{3}}(?:(?P<gap>[\-.\u2010-\u2013])(?!00)\d\d(?P=gap)(?!0000)\d{{4}}"
    rf"|(?<!\d \d\d\d) (?!00)\d\d (?!0000)\d{{4}}(?! \d)){_END}"
)
_NINE = re.compile(rf"{_D}\d{{3}}[ \-.]?(?:\d\d[ \-.]?\d{{4}}|\d{{3}}[ \-.]?\d{{3}}){_END}")
_NINO = re.compile(
    rf"(?<![\w])(?!BG|GB|NK|KN|TN|NT|ZZ)(?:[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?:{_S}\d\d){{3}}{_S}[A-D]"
    r"|[a-ceghj-pr-tw-z][a-ceghj-npr-tw-z]\d{6}[a-d])(?![\w])"
)
_ELEVEN = re.compile(rf"{_D}\d\d{_S}\d{{3}}{_S}\d{{3}}{_S}\d{{3}}{_END}")
_NIR = regex(rf"{_D}[12]{_S}\d\d{_S}(?:0[1-9]|1[0-2]|[2-9]\d){_S}(?:\d\d|2[AB]){_S}\d{{3}}{_S}\d{{3}}{_S}\d\d{_END}")
_DNI = re.compile(
    r"(?<![\w.,\-])(?:\d{8}|\d{2}\.\d{3}\.\d{3}|[XYZxyz][\- ]?\d{7})(?:[\- ]?[A-HJ-NP-TV-Z]|[a-hj-np-tv-z])(?![\w])"
)
_FISCAL = regex(
    r"(?<![\w])[A-Z]{6}\s?[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}\s?[A-Z][0-9LMNPQRSTUV]{3}[A-Z](?![\w])"
)
_CPF = re.compile(r"(?<![\w.,\-])\d{3}\.\d{3}\.\d{3}-\d\d(?![\w])")
_TWELVE = re.compile(rf"{_D}\d{{12}}{_END}")
_AADHAAR = re.compile(rf"{_D}[2-9]\d{{3}}([ \-])\d{{4}}\1\d{{4}}(?!\1\d|\w|[.,]\d)")
_CHINESE = regex(rf"{_D}[1-9]\d{{5}}(?:18|19|20)\d{{9}}[\dX](?![\w])")
_SWEDISH = re.compile(rf"{_D}(?:19|20)?\d{{6}}[\-+]\d{{4}}{_END}")
_FINNISH = regex(r"(?<![\w.,\-/+])\d{6}[\-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y](?![\w])")
_AUSTRIAN = re.compile(rf"{_D}(?<!\d )[1-9]\d{{3}} \d{{6}}{_END}")
_TEN = re.compile(rf"{_D}\d{{10}}{_END}")
_SWISS = re.compile(rf"{_D}756([. ]?)\d{{4}}\1\d{{4}}\1\d\d{_END}")
_KOREAN = re.compile(rf"{_D}\d{{6}}-[1-8]\d{{6}}{_END}")
_SIN = re.compile(rf"{_D}\d{{3}}([ \-])\d{{3}}\1\d{{3}}{_END}")
_MRZ = re.compile(r"(?<![A-Z0-9<])(?=[A-Z0-9<]{0,43}<<)[A-Z0-9<]{28,44}(?![A-Z0-9<])")
_DOCUMENTS = any_of(
    """
    passport reisepass pasaporte passeport passaporto (?:id|identity)~card personalausweis driver'?s?~licen[cs]e
    driving~licen[cs]e führerschein national~id permit visa
    """
)
_DOCUMENT = regex(
    rf"""\b(?:{_DOCUMENTS})
    (?:[ ](?:number|no|nr|num|id))?[.:\#]?(?:[ ](?:is|was|ist|es|reads|shows|says))?[ :\#]{{1,3}}
    (?P<found>(?=[A-Z0-9\-]{{0,6}}\d)[A-Z0-9][A-Z0-9\-]{{5,17}})(?![\w])"""
)
_PERSONS_NUMBER = any_of(
    """
    ssn social~security itin (?-i:TIN) tax~(?:id|number) bsn burgerservicenummer sofi cpf aadhaa?r uidai (?-i:SIN|NAS)
    social~insurance national~id id~number identity~number identification personal~(?:id|number)
    insurance~number svnr ahv citizen
    """
)
_OF_A_PERSON = regex(rf"\b(?:{_PERSONS_NUMBER})\b[^\d]{{0,24}}$")
_BIRTHS = any_of(
    """
    born dob d.o.b date~of~birth birth~?date birthday geboren geb geburtsdatum née? nacid[oa] fecha~de~nacimiento
    """
)
_BORN = regex(
    rf"""\b(?:{_BIRTHS})\b\.?
    (?:[ ](?:on|is|was|am|le|el|in|the|ist|es)\b){{0,2}}[ :.\-]{{1,3}}
    (?P<found>\d{{1,4}}[./\-]\d{{1,2}}[./\-]\d{{1,4}}
    |\d{{1,2}}(?:st|nd|rd|th|\.)?[ ](?:of[ ])?[^\W\d_]{{3,10}}\.?,?[ ]\d{{4}}
    |[^\W\d_]{{3,10}}\.?[ ]\d{{1,2}}(?:st|nd|rd|th)?,?[ ]\d{{4}})
    (?!\d)"""
)


def _document(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    value = match["found"]
    return match.span("found") if sum(c.isdecimal() for c in value) >= 4 else None


_LETTERED = re.compile(rf"\d[^\w{MASK}]?[A-Za-z](?![a-z])")
_LETTERED_OR_DASHED = re.compile(r"\d{6}[\-+A-Za-z]\d{3}")
_ANY_DIGIT = re.compile(r"\d\d")

IDENTITIES: tuple[Pattern, ...] = (
    Pattern("BIRTHDATE", _BORN, whole, _ANY_DIGIT),
    Pattern("NATIONAL_ID", _DOCUMENT, _document, _ANY_DIGIT),
    Pattern("NATIONAL_ID", _MRZ, whole, re.compile("<<")),
    Pattern("NATIONAL_ID", _NINO, whole, _LETTERED),
    Pattern("NATIONAL_ID", _FISCAL, if_sound(checks.is_fiscal_code), _LETTERED),
    Pattern("NATIONAL_ID", _FINNISH, if_sound(checks.is_finnish_id), _LETTERED_OR_DASHED),
    Pattern("NATIONAL_ID", _DNI, if_sound(checks.is_spanish_id), _LETTERED),
    Pattern("NATIONAL_ID", _NIR, if_sound(checks.is_french_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _CHINESE, if_sound(checks.is_chinese_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _KOREAN, if_sound(checks.is_korean_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _CPF, if_sound(checks.is_brazilian_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _SSN, whole, MANY_DIGITS),
    Pattern("NATIONAL_ID", _SWEDISH, if_sound(checks.is_swedish_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _AADHAAR, if_sound(checks.has_verhoeff), MANY_DIGITS),
    Pattern("NATIONAL_ID", _TWELVE, if_sound(checks.has_verhoeff, _OF_A_PERSON), MANY_DIGITS),
    Pattern("NATIONAL_ID", _ELEVEN, if_sound(checks.is_german_tax_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _ELEVEN, if_sound(checks.is_polish_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _ELEVEN, if_sound(checks.is_brazilian_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _AUSTRIAN, if_sound(checks.is_austrian_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _TEN, if_sound(checks.is_austrian_id, _OF_A_PERSON), MANY_DIGITS),
    Pattern("NATIONAL_ID", _SWISS, if_sound(checks.is_swiss_id), MANY_DIGITS),
    Pattern("NATIONAL_ID", _SIN, if_sound(checks.has_luhn, _OF_A_PERSON), MANY_DIGITS),
    Pattern("NATIONAL_ID", _NINE, if_sound(checks.is_dutch_id, _OF_A_PERSON), MANY_DIGITS),
    Pattern("NATIONAL_ID", _NINE, if_sound(str.isdecimal, _OF_A_PERSON), MANY_DIGITS),
)

__all__ = ["IDENTITIES"]
