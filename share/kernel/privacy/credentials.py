"""Secrets: keys, tokens and passwords, by how their issuers write them and by what people call them."""

from __future__ import annotations

import re

from share.kernel.privacy.pattern import MASK, Pattern, any_of, regex, whole

_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
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
_PARAMETER_NAMES = any_of(
    """
    access[_-]?token id_token refresh_token token api[_-]?key key secret client_secret password passwd pwd sig
    signature x-amz-signature x-amz-credential auth session(?:_?id)? sid
    """
)
_PARAMETER = regex(
    rf"""[?&;](?:{_PARAMETER_NAMES})
    =(?P<found>[^\s&;\#\"'<>{MASK}]{{4,1024}})"""
)
_HEADER = regex(
    rf"""\b(?:bearer|basic|token)\s{{1,3}}(?P<found>[A-Za-z0-9_\-.~+/]{{16,4096}}={{0,2}})(?![^\s"',;)\]{MASK}])"""
)
_SECRETS = any_of(
    """
    pass(?:word|wd|phrase|code|wort)? pwd kennwort contraseña senha mot~de~passe
    secret(?:[_~-]?(?:access[_~-]?)?key)? (?:api|access|auth|private|account|license)[_~-]?(?:key|token) token
    pin(?:[~-]?code)? cvv2? cvc2? security~code otp one[-~]time~code
    """
)
_SAID = regex(
    rf"""(?<![^\W_])(?P<word>{_SECRETS})
    (?:[ ](?:number|code|for[ ][\w.\-]{{1,32}}))?["']{{0,2}}\s{{0,2}}
    (?P<sign>:=|=>|[:=]|[ ](?:is|was|lautet|ist|es|é|est)\b:?|(?=[ ]\d{{3,8}}\b))\s{{0,2}}
    (?P<quote>[{_QUOTES}]?)(?P<found>[^\s{_QUOTES}<>{MASK}]{{3,256}})"""
)
_PASSWORDS = ("pass", "pwd", "kenn", "contra", "senha", "mot")
_SAID_NEEDS = regex(r"pass|pwd|wort|contrase|senha|secret|key|token|pin|cvv|cvc|otp|code")


_FROM_ELSEWHERE = regex(r"os\.|process\.env|getenv|\$[{(]|(?-i:\$[A-Z_]{3})")
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


_URL = re.compile("://")
CREDENTIALS: tuple[Pattern, ...] = (
    Pattern("KEY", _PRIVATE_KEY, whole, re.compile("-----BEGIN")),
    Pattern("KEY", _CREDENTIALS, whole, _URL),
    Pattern("KEY", _PARAMETER, whole, re.compile("[?&;][^ ]{1,20}=")),
    Pattern("KEY", _TOKEN, whole, _LONG_WORD),
    Pattern("KEY", _HEADER, whole, _LONG_WORD),
)
"""Written as their issuers write them, or where programs put them."""

CALLED_SECRETS: tuple[Pattern, ...] = (Pattern("KEY", _SAID, _said, _SAID_NEEDS),)
"""What somebody calls a secret."""

__all__ = ["CALLED_SECRETS", "CREDENTIALS"]
