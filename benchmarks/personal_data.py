"""Personal data as people write it: every kind in several formats, and the words that stand around it.

The names of people are not among it, because nothing here can find them.
"""

from __future__ import annotations

import string
from random import Random

from benchmarks import national_ids
from benchmarks.draws import FIRST, LAST, Draw, birth, characters, grouped, of_formats, of_pattern, until, words
from share.kernel.privacy import checks
from share.kernel.privacy.pattern import Entity

DOMAINS = words(
    "example.com mail.example.org gmail.com outlook.de posteo.net yahoo.co.uk firma-beispiel.de uni.edu.au kantoor.nl "
    "студия.рф bücher.example proton.me"
)
MONTHS = words("January February March April May June July August September October November December")


def _email(random: Random) -> str:
    first, last = random.choice(FIRST), random.choice(LAST)
    local = random.choice((f"{first}.{last}", f"{first}{random.randrange(100)}", f"{first[0]}_{last}", f"{first}+shop"))
    address = f"{local}@{random.choice(DOMAINS)}"
    return random.choice((address, address, address, address.upper()))


def _spelt_email(random: Random) -> str:
    at = random.choice((" [at] ", "(at)", " (at) ", "[at]"))
    dot = random.choice((" [dot] ", "(dot)", "."))
    return f"{random.choice(FIRST)}.{random.choice(FIRST)}{at}example{dot}com"


_PHONE_WITH_CODE = of_formats(
    "+1 N## N## ####",
    "+1-N##-N##-####",
    "+1 (N##) N##-####",
    "+1N##N######",
    "+1.N##.N##.####",
    "+44 20 7### ####",
    "+44 (0)20 7### ####",
    "+44 7### ######",
    "+447#########",
    "+49 30 ######",
    "+49 (0) 171 #######",
    "+49-89-#######",
    "+49 151/########",
    "+33 6 ## ## ## ##",
    "+33.6.##.##.##.##",
    "+34 6## ### ###",
    "+39 3## ### ####",
    "+91 98### #####",
    "+91-98########",
    "+86 138 #### ####",
    "+81-90-####-####",
    "+55 11 9####-####",
    "+61 4## ### ###",
    "+7 (9##) ###-##-##",
    "+353 1 ### ####",
    "+90 5## ### ## ##",
)
_PHONE_NATIONAL = of_formats(
    "(N##) N##-####",
    "N##-N##-####",
    "N##.N##.####",
    "N## N## ####",
    "1-800-N##-####",
    "(N##) N##-#### ext. ###",
    "020 7### ####",
    "07### ######",
    "07#########",
    "(020) 7### ####",
    "030/#######",
    "0171-#######",
    "0171 #######",
    "089 / ### ## ##",
    "06 ## ## ## ##",
    "06.##.##.##.##",
    "06########",
    "0044 20 7### ####",
    "0049 30 #######",
    "04## ### ###",
    "090-####-####",
)
_PHONE_CALLED = of_formats("N##-####", "N######", "98### #####", "6## ### ###", "N## ####", "9#########", "## ## ## ##")


def _card(random: Random) -> str:
    prefix, length = random.choice(
        (("4", 16), ("51", 16), ("53", 16), ("2300", 16), ("37", 15), ("6011", 16), ("3528", 16), ("36", 14))
    )
    digits = until(random, lambda r: prefix + of_pattern(r, "#" * (length - len(prefix))), checks.has_luhn)
    sizes = {16: (4, 4, 4), 15: (4, 6), 14: (4, 6)}[length]
    return grouped(digits, sizes, random.choice((" ", "-", "", "")))


_BANKS = {"DE": (0, 18), "GB": (4, 14), "FR": (0, 23), "NL": (4, 10), "ES": (0, 20), "CH": (0, 17), "AT": (0, 16)} | {
    "PL": (0, 24),
    "SE": (0, 20),
    "IE": (4, 14),
}
"""By country: letters and digits of an IBAN after its check digits."""


def _iban(random: Random) -> str:
    country = random.choice(list(_BANKS))
    num_letters, num_digits = _BANKS[country]
    body = of_pattern(random, "A" * num_letters + "#" * num_digits)
    digits = "".join(str(int(c, 36)) for c in f"{body}{country}00")
    iban = f"{country}{98 - int(digits) % 97:02}{body}"
    spaced = grouped(iban, (4,) * 8, " ")
    return random.choice((iban, spaced, spaced, iban.lower()))


def _ipv4(random: Random) -> str:
    first = random.choice((10, 172, 192, 203, 85, 91, 178, 31, 100))
    return f"{first}.{random.randrange(256)}.{random.randrange(10, 256)}.{random.randrange(1, 255)}"


def _ipv6(random: Random) -> str:
    groups = [of_pattern(random, "hhhh") for _ in range(7)]
    full = ":".join(["2001", *groups])
    short = f"2a02:{groups[0]}:{groups[1].lstrip('0') or '0'}::{groups[2].lstrip('0') or '0'}"
    return random.choice((full, short, f"fe80::{groups[3]}:{groups[4]}", full.upper()))


def _mac(random: Random) -> str:
    mac = "a" + random.choice(":-").join(of_pattern(random, "hh") for _ in range(6))[1:]
    return random.choice((mac, mac.upper()))


def _token(random: Random) -> str:
    ending = characters(random, 1, string.digits) + characters(random, 40)
    return random.choice(
        (
            "sk-proj-" + ending,
            "sk_live_" + ending[:24],
            "ghp_" + ending[:36],
            "github_pat_" + ending,
            "glpat-" + ending[:20],
            "xoxb-" + of_pattern(random, "############-############-") + ending[:24],
            "AKIA" + characters(random, 16, string.ascii_uppercase + "234567"),
            "AIza" + ending[:35],
            "hf_" + ending[:34],
            "npm_" + ending[:36],
            "eyJhbGciOiJIUzI1NiJ9." + ending + "." + ending,
            "SG." + ending[:22] + "." + ending[:41],
            "pixelis-" + characters(random, 8, "0123456789abcdef") + "-" + ending[:40],
        )
    )


def _password(random: Random) -> str:
    word = random.choice(("hunter", "Sommer", "kitty", "Qwerty", "letmein", "Tr0ub4dor&", "P@ss-word!"))
    return f"{word}{random.randrange(10, 9999)}" + random.choice(("", "!", "#", "$x"))


def _birthdate(random: Random) -> str:
    year, month, day = birth(random)
    name = MONTHS[month - 1]
    return random.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{day:02}.{month:02}.{year}",
            f"{month}/{day}/{year}",
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
        )
    )


_PLAIN = ("Is {} on the sign?", "It says {} at the bottom.", "{}", "Read this: {}, please.", "({})", '"{}"')
_MAIL = (*_PLAIN, "Contact {}.", "mail to:{}", "mailto:{}", "<{}>", "From: {};", "https://example.com/?user={}&x=1")
_TEL = (*_PLAIN, "Call {} now!", "Tel. {}", "tel:{}", "My number: {}.", "Reach me at {} today", "WhatsApp {}")
_CALLED = ("Call {} now!", "Phone: {}.", "Tel. {}", "tel: {}", "WhatsApp {}", "Reach me at {} today", "my number is {}")
_PAY = (*_PLAIN, "Card number {}, please", "Visa {} exp 12/27", "charge {}")
_BANK = (*_PLAIN, "IBAN {} please", "Transfer to {} today", "Konto: {},")
_HOST = (*_PLAIN, "The server is at {}:8080.", "from {} port 22", "IP address: {}", "http://{}/cam.jpg", "ping {}")
_HOST_6 = ("IP address: {}", "ping {}", "http://[{}]/cam", "It says {} at the bottom.", "inet6 {}/64")
_ID = (*_PLAIN, "His ID is {}.", "ID: {}", "document no. {}")

PERSONAL: dict[Entity, tuple[tuple[str, Draw, tuple[str, ...]], ...]] = {
    "EMAIL": (("address", _email, _MAIL), ("address", _email, _MAIL), ("spelt", _spelt_email, _PLAIN[:4])),
    "PHONE": (
        ("with country code", _PHONE_WITH_CODE, _TEL),
        ("national", _PHONE_NATIONAL, _TEL),
        ("called so", _PHONE_CALLED, _CALLED),
    ),
    "CARD": (("card", _card, _PAY),),
    "IBAN": (("iban", _iban, _BANK),),
    "IP": (("v4", _ipv4, _HOST), ("v6", _ipv6, _HOST_6)),
    "MAC": (("mac", _mac, (*_PLAIN, "MAC {}", "device {} is offline")),),
    "KEY": (
        ("token", _token, (*_PLAIN, "key={}", "Authorization: Bearer {}", "export OPENAI_API_KEY={}")),
        (
            "password",
            _password,
            (
                "password: {}",
                "The wifi password is {}.",
                "pwd={}",
                '"password": "{}"',
                "Passwort: {}",
                "DB_PASSWORD='{}'",
            ),
        ),
        (
            "in a URL",
            lambda r: f"{r.choice(FIRST[:5])}:{characters(r, 12)}",
            ("https://{}@git.example.com/x.git", "ftp://{}@files.example.org"),
        ),
        (
            "in a query",
            lambda r: characters(r, 32),
            ("https://cam.example.com/view?token={}&w=640", "https://x.example/a?api_key={}"),
        ),
        ("PIN", of_formats("####"), ("My PIN is {}.", "PIN: {}", "The pin code is {}")),
        ("CVV", of_formats("###"), ("cvv {}", "CVC: {}", "security code {}")),
    ),
    "NATIONAL_ID": (
        ("US SSN", national_ids.us_ssn, (*_ID, "SSN {}", "Social Security number: {}.")),
        ("US SSN", of_formats("2## %# %###"), ("SSN {}",)),
        ("UK NINO", national_ids.uk_nino, _ID),
        ("DE tax ID", national_ids.german_tax_id, (*_ID, "Steuer-ID {}")),
        ("FR NIR", national_ids.french_nir, _ID),
        ("ES DNI, NIE", national_ids.spanish_id, (*_ID, "DNI {}")),
        ("IT codice fiscale", national_ids.fiscal_code, _ID),
        ("PL PESEL", national_ids.pesel, (*_ID, "PESEL {}")),
        ("BR CPF", national_ids.cpf, (*_ID, "CPF {}")),
        ("IN Aadhaar", national_ids.aadhaar, (*_ID, "Aadhaar {}")),
        ("CN ID", national_ids.chinese_id, _ID),
        ("SE personnummer", national_ids.personnummer, _ID),
        ("KR RRN", national_ids.korean_rrn, _ID),
        ("NL BSN", lambda r: until(r, of_formats("%########"), checks.is_dutch_id), ("BSN {}", "My BSN is {}.")),
        (
            "passport",
            of_formats("A########", "AA#######", "C%#A#%###"),
            ("passport no. {}", "Passport number: {},", "my passport {}"),
        ),
        ("machine-readable zone", national_ids.machine_readable_zone, ("{}", "It says {} at the bottom.")),
    ),
    "BIRTHDATE": (
        ("called so", _birthdate, ("born {}", "DOB: {}", "date of birth {},", "geboren am {}", "was born on {}.")),
    ),
}

__all__ = ["PERSONAL"]
