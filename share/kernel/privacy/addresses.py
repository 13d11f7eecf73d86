"""Addresses of people and of machines: mail, IP, MAC."""

from __future__ import annotations

import re

from share.kernel.privacy import checks
from share.kernel.privacy.pattern import Pattern, any_of, compact, regex, whole, words_before

_LOCAL = r"[\w+%][\w.+%'\-]{0,63}"
_EMAIL = re.compile(
    rf"(?<![\w+%]){_LOCAL}[@\uff20](?!\d{{1,2}}x\.)(?:(?:[\w\-]{{1,63}}\.){{1,8}}(?:xn--[\w\-]{{2,59}}|[^\W\d_]{{2,24}})"
    r"|\[?\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\]?)"
)
_SPELT_EMAIL = regex(
    rf"""(?<![\w+%])(?P<found>{_LOCAL}\s{{0,2}}[(\[{{]\s?(?:at|@)\s?[)\]}}]\s{{0,2}}[\w\-]{{1,63}}
    (?:\s{{0,2}}(?:\.|[(\[{{]\s?(?:dot|punkt|punto|\.)\s?[)\]}}])\s{{0,2}}[\w\-]{{1,63}}){{1,4}})"""
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w]|\.\d|-\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_MAC = re.compile(
    r"(?<![\w:.\-])(?:[0-9A-Fa-f]{2}([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![\w:\-]|\.\w)"
)
_VERSIONED = any_of(
    """
    v ver versions? releases? released build firmware driver revision rev update upgrade patch sections? sect
    chapter clause paragraph para article figure fig table step item app software os android chrome chromium firefox
    safari kernel python cuda
    """
)
_OF_A_VERSION = regex(
    rf"""(?:\b(?:{_VERSIONED})|§|[<>~=]=)
    [ .:\#]{{0,3}}(?:number|no|to|from|is|was)?[ .:]{{0,2}}$"""
)
_OF_A_HOST = regex(r"\b(?:ip|ipv4|address|host|server|dns|gateway|router|ping|ssh|from|client|remote)\b[^\d]{0,12}$")


def _ipv4(text: str, match: re.Match[str]) -> tuple[int, int] | None:
    octets = [int(octet) for octet in match.group().split(".")]
    if max(octets) > 255 or octets[0] in (0, 127, 255):
        return None  # no address, or nobody's
    before = words_before(text, match.start())
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
    digits = compact(match.group())
    is_number = digits.isdecimal() and "." in match.group()
    return None if is_number or len(set(digits)) == 1 else match.span()


_AT = re.compile("[@\uff20]")
_SPELT_AT = re.compile(r"[(\[{]\s?(?:at|@)\s?[)\]}]", re.IGNORECASE)
_COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")
_HEX_PAIRS = re.compile(r"[0-9A-Fa-f]{2}[:\-.][0-9A-Fa-f]{2}")
_DOTTED = re.compile(r"\d\.\d{1,3}\.\d")

MAIL_ADDRESSES: tuple[Pattern, ...] = (
    Pattern("EMAIL", _EMAIL, whole, _AT),
    Pattern("EMAIL", _SPELT_EMAIL, whole, _SPELT_AT),
)

MACHINE_ADDRESSES: tuple[Pattern, ...] = (
    Pattern("MAC", _MAC, _mac, _HEX_PAIRS),
    Pattern("IP", _IPV4, _ipv4, _DOTTED),
    Pattern("IP", _IPV6, _ipv6, _COLONS),
)

__all__ = ["MACHINE_ADDRESSES", "MAIL_ADDRESSES"]
