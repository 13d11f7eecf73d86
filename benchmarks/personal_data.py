"""Questions to a vision model with personal data in many formats, and with numbers that only look like it.

Everything is drawn from a seed; the names of people are not marked, because nothing here can find them. The numbers are
made with check digits of their own kind, by trying until the published rule holds.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from share.kernel.privacy import checks
from share.kernel.privacy.patterns import Entity

Draw = Callable[[Random], str]

PERSONAL_SHARE = 0.6
"""Part of the texts that hold personal data; all may hold what looks like it."""


def _words(text: str) -> list[str]:
    return text.split()


FIRST = _words("anna ben carla dmitri elif farid grace hiro ines jonas kavita li maría noah olga pedro rosa sven yusuf")
LAST = _words("schmidt novak garcía okafor tanaka rossi müller dubois singh kim larsson costa o'neill haddad moreau")
DOMAINS = _words(
    "example.com mail.example.org gmail.com outlook.de posteo.net yahoo.co.uk firma-beispiel.de uni.edu.au kantoor.nl "
    "студия.рф bücher.example proton.me"
)
THINGS = _words("sign label receipt form screen badge note poster invoice van card whiteboard letter package")
COLORS = _words("red blue green yellow black white orange")
MONTHS = _words("January February March April May June July August September October November December")


@dataclass(frozen=True, slots=True)
class Truth:
    """Personal data in a text: `text[start:end]`; `format` names how it was written."""

    entity: Entity
    start: int
    end: int
    format: str


@dataclass(frozen=True, slots=True)
class Sample:
    text: str
    truths: tuple[Truth, ...]


def make_samples(seed: int, num_samples: int) -> list[Sample]:
    random = Random(seed)
    return [_sample(random) for _ in range(num_samples)]


def _sample(random: Random) -> Sample:
    text, truths = "", []
    if random.random() < 0.8:
        text = random.choice(_STEMS)(random) + " "
    if random.random() < PERSONAL_SHARE:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            entity = random.choice(list(PERSONAL))
            name, draw, contexts = random.choice(PERSONAL[entity])
            before, _, after = random.choice(contexts).partition("{}")
            value = draw(random)
            text += before
            truths.append(Truth(entity, len(text), len(text) + len(value), name))
            text += value + after + random.choice((" ", " ", "\n"))
    for _ in range(random.choice((0, 1, 1, 2))):
        text += random.choice(_LOOKALIKES)(random) + random.choice((" ", " ", "\n"))
    return Sample(text.rstrip() if not truths else text, tuple(truths))


def _number(random: Random, pattern: str) -> str:
    """`#` any digit, `%` 1 to 9, `N` 2 to 9, `A` a capital, `a` a small letter, `h` a hexadecimal digit."""
    drawn = {
        "#": string.digits,
        "%": "123456789",
        "N": "23456789",
        "A": string.ascii_uppercase,
        "a": string.ascii_lowercase,
        "h": "0123456789abcdef",
    }
    return "".join(random.choice(drawn[c]) if c in drawn else c for c in pattern)


def _filled(random: Random, template: str) -> str:
    """A text whose parts in braces are drawn as `_number` draws them."""
    return re.sub(r"\{(.*?)\}", lambda match: _number(random, match[1]), template)


def _letters(random: Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.choice(alphabet) for _ in range(count))


def _until(random: Random, draw: Draw, is_sound: Callable[[str], bool]) -> str:
    while not is_sound(value := draw(random)):
        pass
    return value


def _grouped(text: str, sizes: tuple[int, ...], separator: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    return separator.join(part for part in [*parts, text[at:]] if part)


def _person(random: Random) -> str:
    return f"{random.choice(FIRST)} {random.choice(LAST)}".title()


# --- personal data ---------------------------------------------------------------------------------------------------


def _email(random: Random) -> str:
    first, last = random.choice(FIRST), random.choice(LAST)
    local = random.choice((f"{first}.{last}", f"{first}{random.randrange(100)}", f"{first[0]}_{last}", f"{first}+shop"))
    address = f"{local}@{random.choice(DOMAINS)}"
    return random.choice((address, address, address, address.upper()))


def _spelt_email(random: Random) -> str:
    at = random.choice((" [at] ", "(at)", " (at) ", "[at]"))
    dot = random.choice((" [dot] ", "(dot)", "."))
    return f"{random.choice(FIRST)}.{random.choice(FIRST)}{at}example{dot}com"


def _of_formats(*patterns: str) -> Draw:
    return lambda random: _number(random, random.choice(patterns))


_PHONE_WITH_CODE = _of_formats(
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
_PHONE_NATIONAL = _of_formats(
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
_PHONE_CALLED = _of_formats(
    "N##-####", "N######", "98### #####", "6## ### ###", "N## ####", "9#########", "## ## ## ##"
)


def _card(random: Random) -> str:
    prefix, length = random.choice(
        (("4", 16), ("51", 16), ("53", 16), ("2300", 16), ("37", 15), ("6011", 16), ("3528", 16), ("36", 14))
    )
    digits = _until(random, lambda r: prefix + _number(r, "#" * (length - len(prefix))), checks.has_luhn)
    sizes = {16: (4, 4, 4), 15: (4, 6), 14: (4, 6)}[length]
    return _grouped(digits, sizes, random.choice((" ", "-", "", "")))


_BANKS = {"DE": (0, 18), "GB": (4, 14), "FR": (0, 23), "NL": (4, 10), "ES": (0, 20), "CH": (0, 17), "AT": (0, 16)} | {
    "PL": (0, 24),
    "SE": (0, 20),
    "IE": (4, 14),
}
"""By country: letters and digits of an IBAN after its check digits."""


def _iban(random: Random) -> str:
    country = random.choice(list(_BANKS))
    num_letters, num_digits = _BANKS[country]
    body = _number(random, "A" * num_letters + "#" * num_digits)
    digits = "".join(str(int(c, 36)) for c in f"{body}{country}00")
    iban = f"{country}{98 - int(digits) % 97:02}{body}"
    spaced = _grouped(iban, (4,) * 8, " ")
    return random.choice((iban, spaced, spaced, iban.lower()))


def _ipv4(random: Random) -> str:
    first = random.choice((10, 172, 192, 203, 85, 91, 178, 31, 100))
    return f"{first}.{random.randrange(256)}.{random.randrange(10, 256)}.{random.randrange(1, 255)}"


def _ipv6(random: Random) -> str:
    groups = [_number(random, "hhhh") for _ in range(7)]
    full = ":".join(["2001", *groups])
    short = f"2a02:{groups[0]}:{groups[1].lstrip('0') or '0'}::{groups[2].lstrip('0') or '0'}"
    return random.choice((full, short, f"fe80::{groups[3]}:{groups[4]}", full.upper()))


def _mac(random: Random) -> str:
    mac = "a" + random.choice(":-").join(_number(random, "hh") for _ in range(6))[1:]
    return random.choice((mac, mac.upper()))


def _token(random: Random) -> str:
    ending = _letters(random, 1, string.digits) + _letters(random, 40)
    return random.choice(
        (
            "sk-proj-" + ending,
            "sk_live_" + ending[:24],
            "ghp_" + ending[:36],
            "github_pat_" + ending,
            "glpat-" + ending[:20],
            "xoxb-" + _number(random, "############-############-") + ending[:24],
            "AKIA" + _letters(random, 16, string.ascii_uppercase + "234567"),
            "AIza" + ending[:35],
            "hf_" + ending[:34],
            "npm_" + ending[:36],
            "eyJhbGciOiJIUzI1NiJ9." + ending + "." + ending,
            "SG." + ending[:22] + "." + ending[:41],
            "pixelis-" + _letters(random, 8, "0123456789abcdef") + "-" + ending[:40],
        )
    )


def _password(random: Random) -> str:
    word = random.choice(("hunter", "Sommer", "kitty", "Qwerty", "letmein", "Tr0ub4dor&", "P@ss-word!"))
    return f"{word}{random.randrange(10, 9999)}" + random.choice(("", "!", "#", "$x"))


def _ssn(random: Random) -> str:
    area = random.choice((random.randrange(1, 666), random.randrange(667, 900)))
    return f"{area:03}-{random.randrange(1, 100):02}-{random.randrange(1, 10000):04}"


def _birth(random: Random) -> tuple[int, int, int]:
    return random.randrange(1940, 2010), random.randrange(1, 13), random.randrange(1, 29)


def _nino(random: Random) -> str:
    prefix = random.choice(("AB", "CE", "JK", "PR", "SX", "TW"))
    return _grouped(prefix + _number(random, "######") + random.choice("ABCD"), (2, 2, 2, 2), random.choice(("", " ")))


def _german(random: Random) -> str:
    digits = _until(random, lambda r: _number(r, "%##########"), checks.is_german_tax_id)
    return random.choice((digits, _grouped(digits, (2, 3, 3), " ")))


def _french(random: Random) -> str:
    year, month, _ = _birth(random)
    number = f"{random.choice('12')}{year % 100:02}{month:02}{random.randrange(1, 96):02}{_number(random, '######')}"
    whole = f"{number}{97 - int(number) % 97:02}"
    return random.choice((whole, _grouped(whole, (1, 2, 2, 2, 3, 3), " ")))


def _spanish(random: Random) -> str:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    number = random.randrange(10_000_000, 100_000_000)
    foreign = random.randrange(10_000_000)
    dni = f"{number}{letters[number % 23]}"
    nie = f"Y{foreign:07}{letters[int(f'1{foreign:07}') % 23]}"
    return random.choice((dni, dni, f"{dni[:8]}-{dni[8]}", nie))


def _italian(random: Random) -> str:
    consonants = "BCDFGLMNPRSTVZ"

    def draw(r: Random) -> str:
        year, _, day = _birth(r)
        name = _letters(r, 6, consonants)
        month = r.choice("ABCDEHLMPRST")
        return f"{name}{year % 100:02}{month}{day:02}{_number(r, 'A###A')}"

    return _until(random, draw, checks.is_fiscal_code)


def _polish(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = _birth(r)
        return f"{year % 100:02}{month + (20 if year >= 2000 else 0):02}{day:02}{_number(r, '#####')}"

    return _until(random, draw, checks.is_polish_id)


def _brazilian(random: Random) -> str:
    digits = _until(random, lambda r: _number(r, "###########"), checks.is_brazilian_id)
    return f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}"


def _aadhaar(random: Random) -> str:
    digits = _until(random, lambda r: _number(r, "N###########"), checks.has_verhoeff)
    return _grouped(digits, (4, 4), random.choice((" ", "-")))


def _chinese(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = _birth(r)
        return f"110105{year}{month:02}{day:02}{_number(r, '###')}{r.choice('0123456789X')}"

    return _until(random, draw, checks.is_chinese_id)


def _swedish(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = _birth(r)
        return f"{year}{month:02}{day:02}{_number(r, '####')}"

    digits = _until(random, draw, checks.is_swedish_id)
    return random.choice((f"{digits[:8]}-{digits[8:]}", f"{digits[2:8]}-{digits[8:]}"))


def _korean(random: Random) -> str:
    def draw(r: Random) -> str:
        year, month, day = _birth(r)
        return f"{year % 100:02}{month:02}{day:02}{r.choice('12' if year < 2000 else '34')}{_number(r, '######')}"

    digits = _until(random, draw, checks.is_korean_id)
    return f"{digits[:6]}-{digits[6:]}"


def _machine_readable(random: Random) -> str:
    first = f"P<UTO{random.choice(LAST)}<<{random.choice(FIRST)}<<".upper()
    ascii_only = "".join(c if c in string.ascii_uppercase + "<" else "X" for c in first)
    return ascii_only.ljust(44, "<")


def _birthdate(random: Random) -> str:
    year, month, day = _birth(random)
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
            lambda r: f"{r.choice(FIRST[:5])}:{_letters(r, 12)}",
            ("https://{}@git.example.com/x.git", "ftp://{}@files.example.org"),
        ),
        (
            "in a query",
            lambda r: _letters(r, 32),
            ("https://cam.example.com/view?token={}&w=640", "https://x.example/a?api_key={}"),
        ),
        ("PIN", _of_formats("####"), ("My PIN is {}.", "PIN: {}", "The pin code is {}")),
        ("CVV", _of_formats("###"), ("cvv {}", "CVC: {}", "security code {}")),
    ),
    "NATIONAL_ID": (
        ("US SSN", _ssn, (*_ID, "SSN {}", "Social Security number: {}.")),
        ("US SSN", _of_formats("2## %# %###"), ("SSN {}",)),
        ("UK NINO", _nino, _ID),
        ("DE tax ID", _german, (*_ID, "Steuer-ID {}")),
        ("FR NIR", _french, _ID),
        ("ES DNI, NIE", _spanish, (*_ID, "DNI {}")),
        ("IT codice fiscale", _italian, _ID),
        ("PL PESEL", _polish, (*_ID, "PESEL {}")),
        ("BR CPF", _brazilian, (*_ID, "CPF {}")),
        ("IN Aadhaar", _aadhaar, (*_ID, "Aadhaar {}")),
        ("CN ID", _chinese, _ID),
        ("SE personnummer", _swedish, _ID),
        ("KR RRN", _korean, _ID),
        ("NL BSN", lambda r: _until(r, _of_formats("%########"), checks.is_dutch_id), ("BSN {}", "My BSN is {}.")),
        (
            "passport",
            _of_formats("A########", "AA#######", "C%#A#%###"),
            ("passport no. {}", "Passport number: {},", "my passport {}"),
        ),
        ("machine-readable zone", _machine_readable, ("{}", "It says {} at the bottom.")),
    ),
    "BIRTHDATE": (
        ("called so", _birthdate, ("born {}", "DOB: {}", "date of birth {},", "geboren am {}", "was born on {}.")),
    ),
}

# --- what only looks like it -----------------------------------------------------------------------------------------


def _box(random: Random) -> list[int]:
    x, y = random.randrange(900), random.randrange(900)
    return [x, y, x + random.randrange(10, 900), y + random.randrange(10, 900)]


def _call(random: Random) -> str:
    call = {"name": "ZOOM_IN", "arguments": {"image": "image_1", "bbox": _box(random)}}
    return f"<tool_call>{json.dumps(call)}</tool_call>"


def _ean(random: Random) -> str:
    digits = random.choice(("978", "979", "400", "501", "871")) + _number(random, "#########")
    total = sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(digits))
    return digits + str(-total % 10)


def _isbn(random: Random) -> str:
    ean = "978" + _ean(random)[3:]
    return random.choice(
        (f"ISBN {ean}", f"ISBN {_grouped(ean, (3, 1, 2, 6), '-')}", f"ISBN-13: {_grouped(ean, (3, 1, 4, 4), ' ')}")
    )


def _date(random: Random) -> str:
    year, month, day = random.randrange(1990, 2027), random.randrange(1, 13), random.randrange(1, 29)
    hour, minute, second = random.randrange(24), random.randrange(60), random.randrange(60)
    return random.choice(
        (
            f"on {day:02}.{month:02}.{year} at {hour:02}:{minute:02}",
            f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z",
            f"{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{random.randrange(1000):03}+0200",
            f"between {day:02}/{month:02}/{year} and {day:02}/{month:02}/{year + 1}",
            f"taken {day:02}-{month:02}-{year} {hour:02}:{minute:02}",
            f"timestamp {random.randrange(1_600_000_000, 1_800_000_000)}",
            f"{random.randrange(1_600_000_000_000, 1_800_000_000_000)} ms",
            f"IMG_{year}{month:02}{day:02}_{hour:02}{minute:02}{second:02}.jpg",
            f"{year}{month:02}{day:02}-{hour:02}{minute:02}{second:02}",
        )
    )


def _place(random: Random) -> str:
    lat, lon = random.uniform(-90, 90), random.uniform(-180, 180)
    return random.choice(
        (
            f"at {lat:.6f}, {lon:.6f}",
            f"({lat:.5f}, {lon:.5f})",
            f"lat={lat:.7f} lon={lon:.7f}",
            f"{abs(lat):.4f}° N {abs(lon):.4f}° E",
            f"{lat:+.5f} {lon:+.5f}",
            "40°26'46.302\"N 79°58'56.484\"W",
            f"UTM 32U {random.randrange(300_000, 700_000)} {random.randrange(5_000_000, 6_000_000)}",
        )
    )


def _version(random: Random) -> str:
    a, b, c, d = (random.randrange(20) for _ in range(4))
    return random.choice(
        (
            f"version {a}.{b}.{c}.{d}",
            f"v{a}.{b}.{c}.{d}",
            f"firmware {a}.{b}.{c}.{d}",
            f"Chrome {a + 100}.0.{random.randrange(5000, 7000)}.{d + 40}",
            f"torch=={a}.{b}.{c}",
            f"lodash@{a}.{b}.{c}",
            f"section {a % 9}.{b % 9}.{c % 9}.{d % 9}",
            f"build {a}.{b}.{random.randrange(1000, 9999)}",
            f"Python {a}.{b}.{c} on Linux",
        )
    )


def _order(random: Random) -> str:
    return random.choice(
        (
            _filled(random, "order #{%#########}"),
            _filled(random, "Order no. {N##-N######-#######}"),
            _filled(random, "invoice 2024-00{####}"),
            _filled(random, "INV-{########}"),
            _filled(random, "tracking 1Z{###AA1##########}"),
            _filled(random, "part number {%##-%##-%##}"),
            _filled(random, "serial SN{%####A####}"),
            _filled(random, "SKU {####-####-##}"),
            _filled(random, "ticket {%######}"),
            _filled(random, "lot 0{%#######}"),
            _filled(random, "model AA-{%###A}"),
            _filled(random, "order ID 0{########}"),
            f"barcode {_ean(random)}",
            f"EAN {_ean(random)}",
        )
    )


def _measure(random: Random) -> str:
    return random.choice(
        (
            "a 1920x1080 image",
            _filled(random, "{%##.##} kg and {%#.###} m"),
            _filled(random, "{%,###,###,###} people"),
            _filled(random, "EUR {%#.###.###},00"),
            _filled(random, "${%##,###.##}"),
            _filled(random, "{%##} {###} {###} km"),
            _filled(random, "{%.####}e-0{%}"),
            _filled(random, "0.{################}"),
            _filled(random, "between {%##.%##} and {%##.%##}"),
            _filled(random, "{%##/%##} and {%#:%#:%#}"),
            _filled(random, "{%#} + {%##} = {%###}"),
            _filled(random, "the digits {#} {#} {#} {#} {#}"),
            _filled(random, "frame 000{#####} of 000{#####}"),
            _filled(random, "numbers {%#} {%#} {%#} {%#} {%#} {%#} {%#}"),
            _filled(random, "pixels {%##} {%##} {%##} {%##}"),
        )
    )


def _code(random: Random) -> str:
    return random.choice(
        (
            _filled(random, "uuid {hhhhhhhh-hhhh}-4{hhh}-a{hhh-hhhhhhhhhhhh}"),
            "commit " + _number(random, "h" * 40),
            "sha256:" + _number(random, "h" * 64),
            "#" + _number(random, "hhhhhh"),
            "std::vector<int> a::b::c",
            f"follow @{random.choice(FIRST)}_{random.randrange(99)}",
            "background.png@2x, meet @ 5.30pm",
            "The password field is empty.",
            "Which token is next? There are 512 tokens.",
            "Is the key on the table? The secret is out.",
            "password: required",
            "max_tokens=1024, num_keys: 65536",
            "127.0.0.1 and 0.0.0.0",
            "Where is the phone? It lies at the left.",
            "The cell in row 12 column 4",
            "the phone shows 12:45 and 87 %",
            "the mobile has 128 GB and 6.1 inches",
            "What does the text 4711 mean?",
            "class_id=3 conf=0.87 xywh=0.512 0.334 0.120 0.250",
            "Psalm 119:105-106",
            "Boeing 737-800 at gate B42, flight LH 1234",
            "12:30:45 - 12:31:10",
        )
    )


def _boxes(random: Random) -> str:
    return random.choice(
        (
            _call(random),
            _call(random),
            f"box {_box(random)}",
            f"bbox={tuple(_box(random))}",
            f"polygon {[_box(random)[:2] for _ in range(6)]}",
            f"xyxy: {' '.join(map(str, _box(random)))}",
            json.dumps({"xyxy": [[round(v * 1.03, 2) for v in _box(random)]], "confidence": round(random.random(), 6)}),
            f"points {random.randrange(999)},{random.randrange(999)} {random.randrange(999)},{random.randrange(999)}",
        )
    )


_LOOKALIKES: tuple[Draw, ...] = (_boxes, _boxes, _isbn, _date, _place, _version, _order, _order, _measure, _code)
_STEMS: tuple[Draw, ...] = (
    lambda r: f"What is written on the {r.choice(COLORS)} {r.choice(THINGS)}?",
    lambda r: f"How many {r.choice(COLORS)} cars are left of the {r.choice(THINGS)}?",
    lambda r: f"Is this the {r.choice(THINGS)} of {_person(r)}?",
    lambda r: (
        f"Read the {r.choice(THINGS)} in the {r.choice(('upper', 'lower'))} {r.choice(('left', 'right'))} corner."
    ),
    lambda r: f"Compare image_1 and image_2: which {r.choice(THINGS)} is larger?",
    lambda r: f"Wie viele Gegenstände sind {r.choice(('rot', 'blau', 'grün'))}?",
    lambda r: f"¿Qué dice el cartel {r.choice(('rojo', 'azul'))}?",
    lambda r: "这张图片里有什么?",
)

__all__ = ["PERSONAL", "Sample", "Truth", "make_samples"]
