"""Check digits: numbers that authorities and networks publish as examples are sound, their neighbors are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from share.kernel.privacy import checks

PUBLISHED: list[tuple[Callable[[str], bool], tuple[str, ...]]] = [
    (checks.is_card, ("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "30569309025904")),
    (checks.is_card, ("3530111333300000", "2223003122003222", "6200000000000005")),
    (checks.is_iban, ("DE89370400440532013000", "GB29NWBK60161331926819", "FR1420041010050500013M02606")),
    (checks.is_iban, ("NL91ABNA0417164300", "CH9300762011623852957", "MT84MALT011000012345MTLCAST001S")),
    (checks.has_verhoeff, ("999941057058", "2363")),
    (checks.is_german_tax_id, ("86095742719", "47036892816", "65929970489")),
    (checks.is_french_id, ("255081416802538", "180126955222380")),
    (checks.is_spanish_id, ("12345678Z", "X1234567L", "Z8078221M")),
    (checks.is_fiscal_code, ("RSSMRA85T10A562S", "MRTMTT91D08F205J")),
    (checks.is_dutch_id, ("111222333", "123456782")),
    (checks.is_polish_id, ("44051401359", "02070803628")),
    (checks.is_brazilian_id, ("11144477735", "39053344705")),
    (checks.is_chinese_id, ("11010519491231002X", "440524188001010014")),
    (checks.is_swedish_id, ("8112189876", "198112189876")),
    (checks.is_finnish_id, ("131052308T", "131052-308T")),
    (checks.is_austrian_id, ("1237010180",)),
    (checks.is_swiss_id, ("7569217076985", "7561234567897")),
]
CASES = [(check, number.replace("-", "")) for check, numbers in PUBLISHED for number in numbers]


@pytest.mark.parametrize(("check", "number"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_published_number_is_sound_and_one_with_another_digit_is_not(
    check: Callable[[str], bool], number: str
) -> None:
    assert check(number)
    changed = [
        number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]
        for place in range(2, len(number))
        if number[place].isdigit()
    ]
    refused = sum(not check(other) for other in changed)
    assert refused >= 0.8 * len(changed), "Luhn and mod 97 find every changed digit, mod 11 and 23 nearly every one"


def test_dates_and_lengths_are_part_of_a_number() -> None:
    assert checks.is_korean_id("8811191234567")
    assert not checks.is_korean_id("8813191234567")
    assert not checks.is_card("41111111111111"), "no Visa number has fourteen digits"
    assert not checks.is_iban("DE8937040044053201300"), "a German IBAN has 22 characters"
    assert not checks.is_brazilian_id("11111111111")


def test_an_ip_version_6_address_is_told_from_times_and_scopes() -> None:
    assert all(map(checks.is_ipv6, ("2001:db8::1", "fe80::1ff:fe23:4567:890a", "fd12:3456:789a::1")))
    assert checks.is_ipv6("6513:270e:269e:d37:f2a7:4de5:52e6:b438")
    assert not any(map(checks.is_ipv6, ("12:30:45", "a::b", "::", "::1", "2001:db8:::1")))
