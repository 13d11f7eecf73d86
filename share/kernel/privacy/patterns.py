"""The shapes of personal data, in the order in which they are looked for: secrets first, telephone numbers last.

A pattern is a regular expression and, where the shape alone says too little, a check of the digits and of the words
before. All repetitions are bounded, so the time is linear in the text whatever it is. No expression matches MASK, the
character that stands for what was found before; negated classes therefore name it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from share.kernel.privacy import checks

Entity = Literal["BIRTHDATE", "CARD", "EMAIL", "IBAN", "IP", "KEY", "MAC", "NATIONAL_ID", "PHONE"]

MASK = "\ue000"
"""A character of the private use area, which is neither letter, digit, space nor punctuation."""

_CONTEXT_CHARACTERS = 48
_SPACES = r"[ \u00a0\u2007\u2009\u202f]"
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_GAP = r"[ \u00a0\u2007\u2009\u202f.\-\u2010-\u2013]"

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


def _regex(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE | re.VERBOSE)


def _any_of(words: str) -> str:
    """An alternation of words; `~` in one stands for a space."""
    return "|".join(words.split()).replace("~", r"\ ")


def _whole(text: str, match: re.Match[str]) -> tuple[int, int]:
    """The group `found`, or all of it."""
    return match.span("found") if "found" in match.re.groupindex else match.span()


def _if(is_sound: Callable[[str], bool], context: re.Pattern[str] | None = None) -> Check:
    """If its characters pass the check; with `context`, only after words that say what it is."""

    def check(text: str, match: re.Match[str]) -> tuple[int, int] | None:
        if not is_sound(_compact(match.group())) or (context and not context.search(_before(text, match.start()))):
            return None
        return match.span()

    return check


def _compact(text: str) -> str:
    """Letters in upper case and digits, in ASCII where they are digits of another script; no separators."""
    return "".join(str(int(c)) if c.isdecimal() else c.upper() for c in text if c.isalnum())


def _before(text: str, start: int) -> str:
    """The words before, as far as nothing else was found among them."""
    return text[max(0, start - _CONTEXT_CHARACTERS) : start].rpartition(MASK)[2]


# --- secrets ---------------------------------------------------------------------------------------------------------

_LONG_WORD = re.compile(r"[A-Za-z0-9_.\-]{16}")
_TOKEN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      (?:sk|pk|rk)[-_](?=[A-Za-z_\-]{0,64}\d)(?:[A-Za-z0-9]{1,12}[-_]){0,3}[A-Za-z0-9_\-]{16,256}  # OpenAI, Stripe, …
    | gh[pousr]_[A-Za-z0-9]{30,255} | github_pat_[A-Za-z0-9_]{22,255}
    | pixelis-[A-Za-z0-9]{2,16}-[A-Za-z0-9_\-]{24,64} | gl[a-z]{2,5}-[A-Za-z0-9_\-]{20,64}
    | xox[abeoprs]-[A-Za-z0-9\-]{10,255} | xapp-[A-Za-z0-9\-]{20,255}
    | (?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}
    | AIza[A-Za-z0-9_\-]{35} | ya29\.[A-Za-z0-9_\-]{20,512} | GOCSPX-[A-Za-z0-9_\-]{24,64}
    | hf_[A-Za-z0-9]{30,64} | npm_[A-Za-z0-9]{36} | pypi-[A-Za-z0-9_\-]{50,512}
    | dop_v1_[a-f0-9]{64} | shp[a-z]{2}_[a-f0-9]{32} | whsec_[A-Za-z0-9+/]{24,64}
    | key-[a-f0-9]{32} | (?:AC|SK)[a-f0-9]{32} | SG\.[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{16,64}
    | eyJ[A-Za-z0-9_\-]{8,2048}\.[A-Za-z0-9_\-]{8,8192}(?:\.[A-Za-z0-9_\-]{0,2048})?  # JSON web tokens
    | \d{8,10}:AA[A-Za-z0-9_\-]{32,36} | [MNO][A-Za-z0-9_\-]{23,25}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,38}
    )(?![A-Za-z0-9])""",
    re.VERBOSE,
)
_PRIVATE_KEY = re.compile(
    rf"-----BEGIN [A-Z0-9 ]{{0,30}}PRIVATE KEY(?: BLOCK)?-----[^\-{MASK}]{{0,16000}}"
    r"(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
)
_CREDENTIALS = re.compile(rf"(?<=://)[^\s/@:?#\"'{MASK}]{{0,128}}:[^\s/@\"'{MASK}]{{1,256}}(?=@)")
_PARAMETER_NAMES = _any_of(
    """
    access[_-]?token id_token refresh_token token api[_-]?key key secret client_secret password passwd pwd sig
    signature x-amz-signature x-amz-credential auth session(?:_?id)? sid
    """
)
_PARAMETER = _regex(
    rf"""[?&;](?:{_PARAMETER_NAMES})
    =(?P<found>[^\s&;\#\"'<>{MASK}]{{4,1024}})"""
)
_HEADER = _regex(
    rf"""\b(?:bearer|basic|token)\s{{1,3}}(?P<found>[A-Za-z0-9_\-.~+/]{{16,4096}}={{0,2}})(?![^\s"',;)\]{MASK}])"""
)
_SECRETS = _any_of(
    """
    pass(?:word|wd|phrase|code|wort)? pwd kennwort contraseña senha mot~de~passe
    secret(?:[_~-]?(?:access[_~-]?)?key)? (?:api|access|auth|private|account|license)[_~-]?(?:key|token) token
    pin(?:[~-]?code)? cvv2? cvc2? security~code otp one[-~]time~code
    """
)
_SAID = _regex(
    rf"""(?<![^\W_])(?P<word>{_SECRETS})
    (?:[ ](?:number|code|for[ ][\w.\-]{{1,32}}))?["']{{0,2}}\s{{0,2}}
    (?P<sign>:=|=>|[:=]|[ ](?:is|was|lautet|ist|es|é|est)\b:?|(?=[ ]\d{{3,8}}\b))\s{{0,2}}
    (?P<quote>[{_QUOTES}]?)(?P<found>[^\s{_QUOTES}<>{MASK}]{{3,256}})"""
)
_PASSWORDS = ("pass", "pwd", "kenn", "contra", "senha", "mot")
_SAID_NEEDS = _regex(r"pass|pwd|wort|contrase|senha|secret|key|token|pin|cvv|cvc|otp|code")


_FROM_ELSEWHERE = _regex(r"os\.|process\.env|getenv|\$[{(]|(?-i:\$[A-Z_]{3})")
"""How programs and configurations refer to a secret instead of holding it."""


def _said(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    """What somebody calls a secret, if it can be one: words of a sentence (`the password is written …`) are not."""
    start, end = match.span("found")
    value = text[start:end].rstrip(".,;:!?)]}")
    if _FROM_ELSEWHERE.match(value):
        return None
    word = match["word"].lower()
    sign = match["sign"].strip()
    if word.startswith(("cvv", "cvc", "security", "pin", "otp", "one")):
        is_secret = value.isdecimal() and 3 <= len(value) <= 8
    elif not sign or (value.isdecimal() and word.endswith(("token", "key"))):
        is_secret = False  # the numbers of tokens
    elif match["quote"] or sign in ("=", ":=", "=>") or any(c.isdecimal() for c in value):
        is_secret = len(value) >= 4
    else:  # a word is the next one of a sentence; one with hyphens may be a pass phrase after a colon
        word_of_it = value if sign == ":" else value.replace("-", "")
        is_secret = word.startswith(_PASSWORDS) and len(value) >= 4 and not word_of_it.isalpha()
    return (start, start + len(value)) if is_secret else None


# --- addresses of people and machines --------------------------------------------------------------------------------

_LOCAL = r"[\w+%][\w.+%'\-]{0,63}"
_EMAIL = re.compile(
    rf"(?<![\w+%]){_LOCAL}[@\uff20](?!\d{{1,2}}x\.)(?:(?:[\w\-]{{1,63}}\.){{1,8}}(?:xn--[\w\-]{{2,59}}|[^\W\d_]{{2,24}})"
    r"|\[?\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\]?)"
)
_SPELT_EMAIL = _regex(
    rf"""(?<![\w+%])(?P<found>{_LOCAL}\s{{0,2}}[(\[{{]\s?(?:at|@)\s?[)\]}}]\s{{0,2}}[\w\-]{{1,63}}
    (?:\s{{0,2}}(?:\.|[(\[{{]\s?(?:dot|punkt|punto|\.)\s?[)\]}}])\s{{0,2}}[\w\-]{{1,63}}){{1,4}})"""
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w]|\.\d|-\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_MAC = re.compile(
    r"(?<![\w:.\-])(?:[0-9A-Fa-f]{2}([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![\w:\-]|\.\w)"
)
_VERSIONED = _any_of(
    """
    v ver versions? releases? released build firmware driver revision rev update upgrade patch sections? sect
    chapter clause paragraph para article figure fig table step item app software os android chrome chromium firefox
    safari kernel python cuda
    """
)
_OF_A_VERSION = _regex(
    rf"""(?:\b(?:{_VERSIONED})|§|[<>~=]=)
    [ .:\#]{{0,3}}(?:number|no|to|from|is|was)?[ .:]{{0,2}}$"""
)
_OF_A_HOST = _regex(r"\b(?:ip|ipv4|address|host|server|dns|gateway|router|ping|ssh|from|client|remote)\b[^\d]{0,12}$")


def _ipv4(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    octets = [int(octet) for octet in match.group().split(".")]
    if max(octets) > 255 or octets[0] in (0, 127, 255):
        return None  # no address, or nobody's
    before = _before(text, match.start())
    if _OF_A_VERSION.search(before) or (max(octets) < 10 and not _OF_A_HOST.search(before)):
        return None
    return match.span()


def _ipv6(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    start, end = match.span()
    address = text[start:end]
    if address.endswith(":") and not address.endswith("::"):
        address, end = address[:-1], end - 1
    return (start, end) if checks.is_ipv6(address) else None


def _mac(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    digits = _compact(match.group())
    is_number = digits.isdecimal() and "." in match.group()
    return None if is_number or len(set(digits)) == 1 else match.span()


# --- accounts --------------------------------------------------------------------------------------------------------

_MANY_DIGITS = re.compile(rf"\d(?:[^\w\n,{MASK}]{{0,3}}\d){{6}}")
_CARD = re.compile(
    rf"\d(?<!\d\d)(?<!\d[.,]\d)(?:\d{{3}}({_GAP})\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{3}})?|\d{{3}}({_GAP})\d{{6}}\2\d{{4,5}}|\d{{13,18}})(?!\d|[.,]\d)"
)
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}\d\d(?=(?:{_GAP}?[A-Za-z0-9]){{11}})")
_IBAN_END = re.compile(rf"(?:{_GAP}?[A-Za-z0-9]){{11,30}}")


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
            is_sound = is_end and checks.is_iban(_compact(text[match.start() : place + 1]))
            return (match.start(), place + 1) if is_sound else None
    return None


# --- numbers of people -----------------------------------------------------------------------------------------------

_D = r"(?<![\w.,\-/+])"
_END = r"(?![\w]|[.,/\-]\w)"
_S = rf"{_SPACES}?"
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
_NIR = _regex(rf"{_D}[12]{_S}\d\d{_S}(?:0[1-9]|1[0-2]|[2-9]\d){_S}(?:\d\d|2[AB]){_S}\d{{3}}{_S}\d{{3}}{_S}\d\d{_END}")
_DNI = re.compile(
    r"(?<![\w.,\-])(?:\d{8}|\d{2}\.\d{3}\.\d{3}|[XYZxyz][\- ]?\d{7})(?:[\- ]?[A-HJ-NP-TV-Z]|[a-hj-np-tv-z])(?![\w])"
)
_FISCAL = _regex(
    r"(?<![\w])[A-Z]{6}\s?[0-9LMNPQRSTUV]{2}[ABCDEHLMPRST][0-9LMNPQRSTUV]{2}\s?[A-Z][0-9LMNPQRSTUV]{3}[A-Z](?![\w])"
)
_CPF = re.compile(r"(?<![\w.,\-])\d{3}\.\d{3}\.\d{3}-\d\d(?![\w])")
_TWELVE = re.compile(rf"{_D}\d{{12}}{_END}")
_AADHAAR = re.compile(rf"{_D}[2-9]\d{{3}}([ \-])\d{{4}}\1\d{{4}}(?!\1\d|\w|[.,]\d)")
_CHINESE = _regex(rf"{_D}[1-9]\d{{5}}(?:18|19|20)\d{{9}}[\dX](?![\w])")
_SWEDISH = re.compile(rf"{_D}(?:19|20)?\d{{6}}[\-+]\d{{4}}{_END}")
_FINNISH = _regex(r"(?<![\w.,\-/+])\d{6}[\-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y](?![\w])")
_AUSTRIAN = re.compile(rf"{_D}(?<!\d )[1-9]\d{{3}} \d{{6}}{_END}")
_TEN = re.compile(rf"{_D}\d{{10}}{_END}")
_SWISS = re.compile(rf"{_D}756([. ]?)\d{{4}}\1\d{{4}}\1\d\d{_END}")
_KOREAN = re.compile(rf"{_D}\d{{6}}-[1-8]\d{{6}}{_END}")
_SIN = re.compile(rf"{_D}\d{{3}}([ \-])\d{{3}}\1\d{{3}}{_END}")
_MRZ = re.compile(r"(?<![A-Z0-9<])(?=[A-Z0-9<]{0,43}<<)[A-Z0-9<]{28,44}(?![A-Z0-9<])")
_DOCUMENTS = _any_of(
    """
    passport reisepass pasaporte passeport passaporto (?:id|identity)~card personalausweis driver'?s?~licen[cs]e
    driving~licen[cs]e führerschein national~id permit visa
    """
)
_DOCUMENT = _regex(
    rf"""\b(?:{_DOCUMENTS})
    (?:[ ](?:number|no|nr|num|id))?[.:\#]?(?:[ ](?:is|was|ist|es|reads|shows|says))?[ :\#]{{1,3}}
    (?P<found>(?=[A-Z0-9\-]{{0,6}}\d)[A-Z0-9][A-Z0-9\-]{{5,17}})(?![\w])"""
)
_PERSONS_NUMBER = _any_of(
    """
    ssn social~security itin (?-i:TIN) tax~(?:id|number) bsn burgerservicenummer sofi cpf aadhaa?r uidai (?-i:SIN|NAS)
    social~insurance national~id id~number identity~number identification personal~(?:id|number)
    insurance~number svnr ahv citizen
    """
)
_OF_A_PERSON = _regex(rf"\b(?:{_PERSONS_NUMBER})\b[^\d]{{0,24}}$")
_BIRTHS = _any_of(
    """
    born dob d.o.b date~of~birth birth~?date birthday geboren geb geburtsdatum née? nacid[oa] fecha~de~nacimiento
    """
)
_BORN = _regex(
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


# --- telephones ------------------------------------------------------------------------------------------------------

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
_PHONES = _any_of(
    """
    calls? calling phones? telephone tel mobile mob cell cellphone whatsapp fax sms text~(?:me|us|him|her|them) dial
    reach contact hotline landline (?:my|our|his|her|their|your)~number handy handynummer rufnummer telefon
    telefonnummer telefono teléfono móvil téléphone tél
    """
)
_PHONE_FILLERS = _any_of(
    """
    no nr numbers? num is are at on me us him her them my the his their our back now under unter to via it or ist es
    est au al
    """
)
_OF_A_PHONE = _regex(
    rf"""\b(?:{_PHONES})\b\.?
    (?:[ ](?:{_PHONE_FILLERS})\b\.?){{0,4}}[ :.\#(=]{{0,4}}$"""
)
_THINGS = _any_of(
    """
    orders? invoice parts? serial model item sku ref reference tracking case ticket lot batch isbn issn ean upc gtin
    barcode version product shipment parcel booking reservation article patent docket catalog catalogue inventory
    asset container receipt confirmation frame doi imei id uuid no
    """
)
_OF_A_THING = _regex(
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
    if _LIKE_A_DATE.match(number) or _OF_A_THING.search(_before(text, match.start())):
        return None
    is_called = _OF_A_PHONE.search(_before(text, match.start()))
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
    if _LIKE_A_DATE.match(number) or not _OF_A_PHONE.search(_before(text, match.start())):
        return None
    if "." in number and len(re.findall(r"\d+", number)) == 2:
        return None
    return _without_open_bracket(text, match)


def _without_open_bracket(text: str, match: re.Match[str]) -> tuple[int, int]:
    start, end = match.span()
    if text[start] == "(" and ")" not in match.group():
        start += 1
    return start, end


_AT = re.compile("[@\uff20]")
_SPELT_AT = re.compile(r"[(\[{]\s?(?:at|@)\s?[)\]}]", re.IGNORECASE)
_URL = re.compile("://")
_COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}[:\-.][0-9A-Fa-f]{2}")
_DOTTED = re.compile(r"\d\.\d{1,3}\.\d")
_LETTERED = re.compile(rf"\d[^\w{MASK}]?[A-Za-z](?![a-z])")
_LETTERED_OR_DASHED = re.compile(r"\d{6}[\-+A-Za-z]\d{3}")
_PLUS_DIGIT = re.compile(r"\+\(?\d")
_ANY_DIGIT = re.compile(r"\d\d")

PATTERNS: tuple[Pattern, ...] = (
    Pattern("KEY", _PRIVATE_KEY, _whole, re.compile("-----BEGIN")),
    Pattern("KEY", _CREDENTIALS, _whole, _URL),
    Pattern("KEY", _PARAMETER, _whole, re.compile("[?&;][^ ]{1,20}=")),
    Pattern("KEY", _TOKEN, _whole, _LONG_WORD),
    Pattern("KEY", _HEADER, _whole, _LONG_WORD),
    Pattern("EMAIL", _EMAIL, _whole, _AT),
    Pattern("EMAIL", _SPELT_EMAIL, _whole, _SPELT_AT),
    Pattern("KEY", _SAID, _said, _SAID_NEEDS),
    Pattern("IBAN", _IBAN, _iban, _MANY_DIGITS),
    Pattern("CARD", _CARD, _if(checks.is_card), _MANY_DIGITS),
    Pattern("MAC", _MAC, _mac, _HEX_PAIRS),
    Pattern("IP", _IPV4, _ipv4, _DOTTED),
    Pattern("IP", _IPV6, _ipv6, _COLONS),
    Pattern("BIRTHDATE", _BORN, _whole, _ANY_DIGIT),
    Pattern("NATIONAL_ID", _DOCUMENT, _document, _ANY_DIGIT),
    Pattern("NATIONAL_ID", _MRZ, _whole, re.compile("<<")),
    Pattern("NATIONAL_ID", _NINO, _whole, _LETTERED),
    Pattern("NATIONAL_ID", _FISCAL, _if(checks.is_fiscal_code), _LETTERED),
    Pattern("NATIONAL_ID", _FINNISH, _if(checks.is_finnish_id), _LETTERED_OR_DASHED),
    Pattern("NATIONAL_ID", _DNI, _if(checks.is_spanish_id), _LETTERED),
    Pattern("NATIONAL_ID", _NIR, _if(checks.is_french_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _CHINESE, _if(checks.is_chinese_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _KOREAN, _if(checks.is_korean_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _CPF, _if(checks.is_brazilian_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _SSN, _whole, _MANY_DIGITS),
    Pattern("NATIONAL_ID", _SWEDISH, _if(checks.is_swedish_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _AADHAAR, _if(checks.has_verhoeff), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _TWELVE, _if(checks.has_verhoeff, _OF_A_PERSON), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _ELEVEN, _if(checks.is_german_tax_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _ELEVEN, _if(checks.is_polish_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _ELEVEN, _if(checks.is_brazilian_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _AUSTRIAN, _if(checks.is_austrian_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _TEN, _if(checks.is_austrian_id, _OF_A_PERSON), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _SWISS, _if(checks.is_swiss_id), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _SIN, _if(checks.has_luhn, _OF_A_PERSON), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _NINE, _if(checks.is_dutch_id, _OF_A_PERSON), _MANY_DIGITS),
    Pattern("NATIONAL_ID", _NINE, _if(str.isdecimal, _OF_A_PERSON), _MANY_DIGITS),
    Pattern("PHONE", _PLUS, _phone, _PLUS_DIGIT),
    Pattern("PHONE", _NANP, _national, _MANY_DIGITS),
    Pattern("PHONE", _TRUNK, _national, _MANY_DIGITS),
    Pattern("PHONE", _LOOSE, _loose, _MANY_DIGITS),
)

__all__ = ["MASK", "PATTERNS", "Check", "Entity", "Pattern"]
