"""Questions to a vision model with personal data in many formats, and with numbers that only look like it.

Everything is drawn from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from benchmarks.draws import Draw, person, words
from benchmarks.lookalikes import LOOKALIKES
from benchmarks.personal_data import PERSONAL
from share.kernel.privacy.pattern import Entity

PERSONAL_SHARE = 0.6
"""Part of the texts that hold personal data; all may hold what looks like it."""

THINGS = words("sign label receipt form screen badge note poster invoice van card whiteboard letter package")
COLORS = words("red blue green yellow black white orange")


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
        text += random.choice(LOOKALIKES)(random) + random.choice((" ", " ", "\n"))
    return Sample(text.rstrip() if not truths else text, tuple(truths))


_STEMS: tuple[Draw, ...] = (
    lambda r: f"What is written on the {r.choice(COLORS)} {r.choice(THINGS)}?",
    lambda r: f"How many {r.choice(COLORS)} cars are left of the {r.choice(THINGS)}?",
    lambda r: f"Is this the {r.choice(THINGS)} of {person(r)}?",
    lambda r: (
        f"Read the {r.choice(THINGS)} in the {r.choice(('upper', 'lower'))} {r.choice(('left', 'right'))} corner."
    ),
    lambda r: f"Compare image_1 and image_2: which {r.choice(THINGS)} is larger?",
    lambda r: f"Wie viele Gegenstände sind {r.choice(('rot', 'blau', 'grün'))}?",
    lambda r: f"¿Qué dice el cartel {r.choice(('rojo', 'azul'))}?",
    lambda r: "这张图片里有什么?",
)

__all__ = ["PERSONAL_SHARE", "Sample", "Truth", "make_samples"]
