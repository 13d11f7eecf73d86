"""Numbers that states give to people, with check digits of their own kind: drawn until the published rule holds."""

from __future__ import annotations

import string
from random import Random

from benchmarks.draws import FIRST, LAST, birth, characters, grouped, of_pattern, until
from share.kernel.privacy import checks


def us_ssn(random: Random) -> str:
    area = random.choice((random.randrange(1, 666), random.randrange(667, 900)))
    return f"{area:03}-{random.randrange(1, 100):02}-{random.randrange(1, 10000):04}"


def uk_nino(random: Random) -> str:
    prefix = random.choice(("AB", "CE", "JK", "PR", "SX", "TW"))
    return grouped(
        prefix + of_pattern(random, "######") + random.choice("ABCD"), (2, 2, 2, 2), random.choice(("", " "))
    )


def german_tax_id(random: Random) -> str:
    digits = until(random, lambda r: of_pattern(r, "%##########"), checks.is_german_tax_id)
    return random.choice((digits, grouped(digits, (2, 3, 3), " ")))


def french_nir(random: Random) -> str:
    year, month, _ = birth(random)
    number = f"{random.choice('12')}{year % 100:02}{month:02}{random.randrange(1, 96):02}{of_pattern(random, '######')}"
    whole = f"{number}{97 - int(number) % 97:02}"
    return random.choice((whole, grouped(whole, (1, 2, 2, 2, 3, 3), " ")))


def spanish_id(random: Random) -> str:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    number = random.randrange(10_000_000, 100_000_000)
    foreign = random.randrange(10_000_000)
    dni = f"{number}{letters[number % 23]}"
    nie = f"Y{foreign:07}{letters[int(f'1{foreign:07}') % 23]}"
    return random.choice((dni, dni, f"{dni[:8]}-{dni[8]}", nie))


def fiscal_code(random: Random) -> str:
    consonants = "BCDFGLMNPRSTVZ"

    def draw(r: Random) -> str:
        year, _, day = birth(r)
        name = characters(r, 6, consonants)
        month = r.choice("ABCDEHLMPRST")
        return f"{name}{year % 100:02}{month}{day:02}{of_pattern(r, 'A###A')}"

    return until(random, draw, checks.is_fiscal_code)


def pesel(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = birth(r)
        return f"{year % 100:02}{month + (20 if year >= 2000 else 0):02}{day:02}{of_pattern(r, '#####')}"

    return until(random, draw, checks.is_polish_id)


def cpf(random: Random) -> str:
    digits = until(random, lambda r: of_pattern(r, "###########"), checks.is_brazilian_id)
    return f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}"


def aadhaar(random: Random) -> str:
    digits = until(random, lambda r: of_pattern(r, "N###########"), checks.has_verhoeff)
    return grouped(digits, (4, 4), random.choice((" ", "-")))


def chinese_id(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = birth(r)
        return f"110105{year}{month:02}{day:02}{of_pattern(r, '###')}{r.choice('0123456789X')}"

    return until(random, draw, checks.is_chinese_id)


def personnummer(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = birth(r)
        return f"{year}{month:02}{day:02}{of_pattern(r, '####')}"

    digits = until(random, draw, checks.is_swedish_id)
    return random.choice((f"{digits[:8]}-{digits[8:]}", f"{digits[2:8]}-{digits[8:]}"))


def korean_rrn(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = birth(r)
        return f"{year % 100:02}{month:02}{day:02}{r.choice('12' if year < 2000 else '34')}{of_pattern(r, '######')}"

    digits = until(random, draw, checks.is_korean_id)
    return f"{digits[:6]}-{digits[6:]}"


def machine_readable_zone(random: Random) -> str:
    first = f"P<UTO{random.choice(LAST)}<<{random.choice(FIRST)}<<".upper()
    ascii_only = "".join(c if c in string.ascii_uppercase + "<" else "X" for c in first)
    return ascii_only.ljust(44, "<")


__all__ = [
    "aadhaar",
    "chinese_id",
    "cpf",
    "fiscal_code",
    "french_nir",
    "german_tax_id",
    "korean_rrn",
    "machine_readable_zone",
    "personnummer",
    "pesel",
    "spanish_id",
    "uk_nino",
    "us_ssn",
]
