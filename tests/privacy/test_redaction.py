"""Redaction: what is personal goes, what only looks like it stays, and the result is stable."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from re import _parser  # type: ignore[attr-defined]  # the parse tree is nowhere public
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.personal_data import PERSONAL
from benchmarks.personal_samples import make_samples
from share.kernel.config import validate
from share.kernel.errors import ConfigError
from share.kernel.privacy import redaction
from share.kernel.privacy.pattern import MASK, Entity
from share.kernel.privacy.patterns import PATTERNS
from share.kernel.privacy.redaction import ENTITIES, RedactionConfig, Redactor
from share.kernel.registry import Registry

EVERYTHING = Redactor(RedactionConfig())

PIECES = (
    (
        "<EMAIL>",
        "<KEY>",
        "<PHONE",
        ">",
        MASK,
        MASK * 3,
        "+1",
        "+49 (0)",
        "0",
        "00",
        " ",
        "  ",
        "\n",
        "-",
        ".",
        "/",
        "(",
    ),
    (")", "@", "://", ":", "password: ", "token=", "?key=", "born ", "call ", "tel. ", "IBAN ", "ID number ", "DE89"),
    ("<<", "4111 1111 1111 1111", "1.2.3.4", "\u0664\u0661\u0661\u0661", "\uff11", "²", "x12", "sk-", "eyJ", "a@b.co"),
)
FRAGMENTS = st.one_of(
    st.sampled_from([piece for line in PIECES for piece in line]),
    st.text(alphabet="0123456789 -./()+:", max_size=24),
    st.text(max_size=8),
    st.builds(
        lambda seed, entity, which: PERSONAL[entity][which % len(PERSONAL[entity])][1](Random(seed)),
        st.integers(0, 99),
        st.sampled_from(ENTITIES),
        st.integers(0, 20),
    ),
)
TEXTS = st.lists(FRAGMENTS, max_size=14).map("".join)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Write to Jane.Doe+x@mail.example.co.uk.", "Write to <EMAIL>."),
        ("müller@bücher.example, <a@b.org> or ann [at] example [dot] com", "<EMAIL>, <<EMAIL>> or <EMAIL>"),
        ("+49 (0)171 1234567; (415) 555-0132 x12, 06 12 34 56 78", "<PHONE>; <PHONE>, <PHONE>"),
        ("call 555-0132 or tel:+44 20 7946 0958", "call <PHONE> or tel:<PHONE>"),
        ("4111-1111-1111-1111 and 378282246310005", "<CARD> and <CARD>"),
        ("DE89 3704 0044 0532 0130 00 and then", "<IBAN> and then"),
        ("from 192.168.17.4:8080 and 2001:db8::8a2e:370:7334", "from <IP>:8080 and <IP>"),
        ("00:1B:44:11:3A:B7", "<MAC>"),
        ("https://me:hunter2@host/x?token=abcdefgh&w=3", "https://<KEY>@host/x?token=<KEY>&w=3"),
        ("the wifi password is hunter22!", "the wifi password is <KEY>!"),
        ("password: correct-horse-battery, pin 4711, cvv: 123", "password: <KEY>, pin <KEY>, cvv: <KEY>"),
        ("The password is P@ssword! or 'swordfish'", "The password is <KEY>! or 'swordfish'"),
        ('{"api_key": "a1b2c3d4"}', '{"api_key": "<KEY>"}'),
        ("Authorization: Bearer abcdefghijklmnopqrst", "Authorization: Bearer <KEY>"),
        ("sk-proj-abcDEF0123456789abcd", "<KEY>"),
        ("SIN 046 454 286, BSN 111222333", "SIN <NATIONAL_ID>, BSN <NATIONAL_ID>"),
        ("SSN 078-05-1120, NINO AB 12 34 56 C", "SSN <NATIONAL_ID>, NINO <NATIONAL_ID>"),
        ("born on 12 May 1980, passport no. C01X00T47", "born on <BIRTHDATE>, passport no. <NATIONAL_ID>"),
        ("P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<", "<NATIONAL_ID>"),
    ],
)
def test_personal_data_is_replaced_by_what_it_is(text: str, kept: str) -> None:
    assert EVERYTHING.redact(text).text == kept


@pytest.mark.parametrize(
    "text",
    [
        "How many cars are left of the van at [120, 340, 560, 780]?",
        '<tool_call>{"name": "ZOOM_IN", "arguments": {"image": "image_1", "bbox": [1012, 340, 1560, 780]}}</tool_call>',
        "xyxy: 412 340 1560 1780 conf=0.8734 polygon [[10, 20], [30, 40]]",
        "version 10.2.3.4, v1.19.6.12 and section 3.2.1.4; Chrome 120.0.6099.71",
        "ISBN 978-3-16-148410-0, EAN 4006381333931, order no. 415-555-0132, invoice 2024-001234",
        "2024-05-01T10:00:00+0200, 01.02.2024 12:30, 08/11/2024, 1714557600, 1714557600123 ms",
        "48.856613, 2.352222; +48.85661 +2.35222; 40°26'46.302\"N",
        "1,234,567,890 people, 299 792 458 m/s, EUR 12.345.678,90, 6.02214e-23, 0.4111111111111111",
        "sha256:06969155907a9bf12eeb5bd6d122201fa50a6ba10577b32c, uuid 123e4567-e89b-42d3-a456-426614174000",
        "lodash@4.17.21, @anna_98, std::vector<int> a::b::c, background@2x.png",
        "The password is written on the note. Which token is next? max_tokens: 1024, password: required",
        'api_key=os.environ["OPENAI_API_KEY"], password: ${DB_PASSWORD}, sin=304193536, opencv-python>=4.5.1.48',
        "127.0.0.1, 0.0.0.0, 255.255.255.0, 12:30:45",
        "4111 1111 1111 1112",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert EVERYTHING.redact(text).text == text


@given(TEXTS)
@example("1 (555) 555-0132 0171 6476823 4111 1111 1111 1111 12 27")
@example("password=<KEY> <PHONE> 5550132")
@example("DE89 DE89 3704 0044 0532 0130 00")
def test_the_spans_are_those_of_the_text_and_once_is_enough(text: str) -> None:
    redacted = EVERYTHING.redact(text)
    rebuilt, end = "", 0
    for span in redacted.spans:
        assert end <= span.start < span.end <= len(text)
        rebuilt += f"{text[end : span.start]}<{span.entity}>"
        end = span.end
    assert rebuilt + text[end:] == redacted.text
    again = EVERYTHING.redact(redacted.text)
    assert again.text == redacted.text
    assert again.spans == ()


@given(TEXTS, st.sampled_from(ENTITIES))
def test_only_what_is_asked_for_is_replaced(text: str, entity: Entity) -> None:
    redactor = Redactor(RedactionConfig(entities=(entity,)))
    assert {span.entity for span in redactor.redact(text).spans} <= {entity, "WITHHELD"}


def test_every_repetition_is_bounded_so_no_text_takes_long() -> None:
    for pattern in PATTERNS:
        for shape in (pattern.shape, pattern.needs):
            for bound in repetitions(_parser.parse(shape.pattern, shape.flags)):
                assert bound <= 16_000, shape.pattern
    assert max(repetitions(_parser.parse("a(b|(?:c|(?=d+)))"))) > 16_000, "one without a bound would be seen"


def repetitions(parsed: Any) -> Iterator[int]:
    """How often the parts of an expression may be repeated at most, nested ones too."""
    for operator, operand in parsed:
        if "REPEAT" in str(operator):
            yield int(operand[1])
        for inner in operand if isinstance(operand, list | tuple) else ():
            if isinstance(inner, _parser.SubPattern):
                yield from repetitions(inner)
            elif isinstance(inner, list):
                for branch in inner:
                    if isinstance(branch, _parser.SubPattern):
                        yield from repetitions(branch)


UNITS = ["1", "1 ", "0(1", "a@", "a.a@a.", "+1(1", "password: a", "AB12", ":", "A<", "eyJaaaaaaaa.", "sk-a-", "://a:"]
UNITS += ["a(at)", "1.1.", "aa:", "'a", "1Z", "a- ", "<EMAIL>"]
UNITS += ["-----BEGIN PRIVATE KEY-----", "4111 1111 1111 1111 ", "M" * 24 + ".", MASK, "GB29NWBK60161331926819"]


@pytest.mark.timeout(120)  # 0.1 s of CPU each; a catastrophe takes hours
@pytest.mark.parametrize("unit", UNITS)
def test_forty_thousand_characters_of_anything_are_done_at_once(unit: str) -> None:
    text = (unit * 40_000)[:40_000]
    redacted = EVERYTHING.redact(text)
    assert EVERYTHING.redact(redacted.text).text == redacted.text


def test_a_text_that_goes_on_revealing_more_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "1 (555) 555-0132 and jane@example.com"
    assert "<EMAIL>" in EVERYTHING.redact(text).text
    monkeypatch.setattr(redaction, "PASSES_MAX", 1)  # the pass that finds nothing more is missing
    withheld = EVERYTHING.redact(text)
    assert withheld.text == "<WITHHELD>"
    assert (withheld.spans[0].start, withheld.spans[0].end) == (0, len(text))
    assert EVERYTHING.redact("nothing here").text == "nothing here"
    assert EVERYTHING.redact(withheld.text).spans == ()


def test_an_entity_that_there_is_not_is_a_mistake(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="entities"):
        validate(RedactionConfig, {"entities": ["NAME"]}, registry)


def test_the_bars_hold_on_a_seed_of_its_own() -> None:
    """`python -m benchmarks.redaction` is the long form: ten other seeds, a table, Presidio beside it."""
    num_truths = num_found = num_right = num_spans = 0
    for sample in make_samples(7_001, 1_500):
        spans = EVERYTHING.redact(sample.text).spans
        covered = {place for span in spans for place in range(span.start, span.end)}
        personal = {place for truth in sample.truths for place in range(truth.start, truth.end)}
        num_truths += len(sample.truths)
        num_found += sum(
            all(place in covered or not sample.text[place].isalnum() for place in range(truth.start, truth.end))
            for truth in sample.truths
        )
        num_spans += len(spans)
        num_right += sum(not personal.isdisjoint(range(span.start, span.end)) for span in spans)
    assert num_found / num_truths >= 0.99
    assert num_right / num_spans >= 0.95
