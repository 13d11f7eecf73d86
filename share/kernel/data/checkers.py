"""How an answer is compared with the truth. Each checker is pure and returns a score in [0, 1].

An answer comes from a policy under optimisation, so no checker may be satisfied by listing every possible answer:
`numeric` and `choice` want exactly one number or letter. `contains` is the exception and says so.
"""

from __future__ import annotations

import re
import unicodedata

from share.kernel.contracts.voting import AnswerType

ANSWER_CHARACTERS_MAX = 1_000
"""Longer answers score zero: it bounds the quadratic edit distance."""

SIMILARITY_MIN = 0.5
"""Similarities below this score zero (the threshold of ANLS)."""

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LETTER = re.compile(r"\(?([a-z])(?:[).:](?:\s.*)?)?")
_SPELLED = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
_WORDS = _SPELLED.split()


def normalise(text: str) -> str:
    """Unicode compatibility form, case folded, white space collapsed, without punctuation at the ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" .,;:!?\"'`")


def canonical(answer: str, answer_type: AnswerType) -> str:
    """One spelling for all answers that mean the same: `3`, `3.0` and `Three` as numbers, `B` and `(b)` as choices.

    What is not exactly one number, or no letter, is compared as text.
    """
    if answer_type == "number":
        found = _numbers(answer)
        if len(found) == 1:
            return f"{found[0] + 0.0:.15g}"  # the sum makes -0 a 0
    elif answer_type == "choice":
        letter = _letter(answer)
        if letter is not None:
            return letter
    return normalise(answer)


def exact(answer: str, truth: str) -> float:
    """1.0 when both are the same after `normalise`, else 0.0."""
    return float(normalise(answer) == normalise(truth))


def contains(answer: str, truth: str) -> float:
    """1.0 when the truth's words occur in the answer in sequence. An answer that lists everything passes: use it to
    evaluate, or where answers are short by construction."""
    return float(f" {_words_only(truth)} " in f" {_words_only(answer)} ")


def numeric(answer: str, truth: str, tolerance: float = 0.0) -> float:
    """1.0 when the answer holds exactly one number and it differs from the truth by at most `tolerance`.

    `tolerance` is relative to the truth's magnitude, or absolute where that is below 1. Thousands separators and the
    English words zero to twenty are understood. Raises ValueError when the truth is not one number.
    """
    expected = _numbers(truth)
    if len(expected) != 1:
        raise ValueError(f"the true answer {truth!r} is not one number")
    found = _numbers(answer)
    if len(found) != 1:
        return 0.0
    return float(abs(found[0] - expected[0]) <= tolerance * max(1.0, abs(expected[0])) + 1e-9)


def choice(answer: str, truth: str) -> float:
    """1.0 when the answer is the truth's letter alone or as a label: `B`, `(B)`, `b.`, `B) the cat`."""
    expected = _letter(truth)
    return float(expected is not None and _letter(answer) == expected)


def edit_similarity(answer: str, truth: str) -> float:
    """One minus the Levenshtein distance over the longer length, zero below 0.5: a term of ANLS (Biten et al. 2019,
    "Scene Text Visual Question Answering", arXiv:1905.13648). Both sides are normalised first."""
    first, second = normalise(answer), normalise(truth)
    if len(first) > ANSWER_CHARACTERS_MAX:
        return 0.0
    longer = max(len(first), len(second))
    similarity = 1.0 - levenshtein(first, second) / longer if longer else 1.0
    return similarity if similarity >= SIMILARITY_MIN else 0.0


def levenshtein(first: str, second: str) -> int:
    """The least number of insertions, deletions and substitutions of characters that turn one into the other."""
    previous = list(range(len(second) + 1))
    for row, a in enumerate(first, start=1):
        current = [row]
        for column, b in enumerate(second, start=1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (a != b)))
        previous = current
    return previous[-1]


def _numbers(text: str) -> list[float]:
    plain = _THOUSANDS.sub("", normalise(text[:ANSWER_CHARACTERS_MAX]))
    spelled = [float(_WORDS.index(word)) for word in re.findall(r"[a-z]+", plain) if word in _WORDS]
    return [float(number) for number in _NUMBER.findall(plain)] + spelled


def _letter(text: str) -> str | None:
    match = _LETTER.fullmatch(normalise(text[:ANSWER_CHARACTERS_MAX]))
    return match.group(1) if match else None


def _words_only(text: str) -> str:
    return " ".join(re.findall(r"\w+", normalise(text)))


__all__ = [
    "ANSWER_CHARACTERS_MAX",
    "SIMILARITY_MIN",
    "canonical",
    "choice",
    "contains",
    "edit_similarity",
    "exact",
    "levenshtein",
    "normalise",
    "numeric",
]
