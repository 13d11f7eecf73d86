"""What only looks like personal data, as users of a vision model write it: boxes, dates, versions, orders, codes."""

from __future__ import annotations

import json
from random import Random

from benchmarks.draws import FIRST, Draw, filled, grouped, of_pattern


def _box(random: Random) -> list[int]:
    x, y = random.randrange(900), random.randrange(900)
    return [x, y, x + random.randrange(10, 900), y + random.randrange(10, 900)]


def _call(random: Random) -> str:
    call = {"name": "ZOOM_IN", "arguments": {"image": "image_1", "bbox": _box(random)}}
    return f"<tool_call>{json.dumps(call)}</tool_call>"


def _ean(random: Random) -> str:
    digits = random.choice(("978", "979", "400", "501", "871")) + of_pattern(random, "#########")
    total = sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(digits))
    return digits + str(-total % 10)


def _isbn(random: Random) -> str:
    ean = "978" + _ean(random)[3:]
    return random.choice(
        (f"ISBN {ean}", f"ISBN {grouped(ean, (3, 1, 2, 6), '-')}", f"ISBN-13: {grouped(ean, (3, 1, 4, 4), ' ')}")
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
            filled(random, "order #{%#########}"),
            filled(random, "Order no. {N##-N######-#######}"),
            filled(random, "invoice 2024-00{####}"),
            filled(random, "INV-{########}"),
            filled(random, "tracking 1Z{###AA1##########}"),
            filled(random, "part number {%##-%##-%##}"),
            filled(random, "serial SN{%####A####}"),
            filled(random, "SKU {####-####-##}"),
            filled(random, "ticket {%######}"),
            filled(random, "lot 0{%#######}"),
            filled(random, "model AA-{%###A}"),
            filled(random, "order ID 0{########}"),
            f"barcode {_ean(random)}",
            f"EAN {_ean(random)}",
        )
    )


def _measure(random: Random) -> str:
    return random.choice(
        (
            "a 1920x1080 image",
            filled(random, "{%##.##} kg and {%#.###} m"),
            filled(random, "{%,###,###,###} people"),
            filled(random, "EUR {%#.###.###},00"),
            filled(random, "${%##,###.##}"),
            filled(random, "{%##} {###} {###} km"),
            filled(random, "{%.####}e-0{%}"),
            filled(random, "0.{################}"),
            filled(random, "between {%##.%##} and {%##.%##}"),
            filled(random, "{%##/%##} and {%#:%#:%#}"),
            filled(random, "{%#} + {%##} = {%###}"),
            filled(random, "the digits {#} {#} {#} {#} {#}"),
            filled(random, "frame 000{#####} of 000{#####}"),
            filled(random, "numbers {%#} {%#} {%#} {%#} {%#} {%#} {%#}"),
            filled(random, "pixels {%##} {%##} {%##} {%##}"),
        )
    )


def _code(random: Random) -> str:
    return random.choice(
        (
            filled(random, "uuid {hhhhhhhh-hhhh}-4{hhh}-a{hhh-hhhhhhhhhhhh}"),
            "commit " + of_pattern(random, "h" * 40),
            "sha256:" + of_pattern(random, "h" * 64),
            "#" + of_pattern(random, "hhhhhh"),
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


LOOKALIKES: tuple[Draw, ...] = (_boxes, _boxes, _isbn, _date, _place, _version, _order, _order, _measure, _code)

__all__ = ["LOOKALIKES"]
