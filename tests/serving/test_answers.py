"""An answer that is read while it is written: nothing that has to be taken back, and in the end all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from share.kernel.contracts.trajectory import Action
from share.kernel.policy.loading import Policy
from share.kernel.serving.answers import AnswerWatch, answer_span


class Reader:
    """A client that reads along."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.actions: list[Action] = []
        self.is_gone = False

    def wrote(self, text: str, /) -> None:
        self.read.append(text)

    def acted(self, action: Action, /) -> None:
        self.actions.append(action)


def bytes_apart(policy: Policy, text: str) -> Iterator[int]:
    """The tokens of a text, its tags spelled out and its letters in single bytes: as hard as a tokenizer makes it."""
    tokenizer = policy.tokenizer.backend_tokenizer
    for letter in text:
        yield from tokenizer.encode(letter, add_special_tokens=False).ids


def read_along(policy: Policy, text: str, *, spelled: bool) -> Reader:
    reader = Reader()
    watch = AnswerWatch(policy.chat, reader)
    ids = bytes_apart(policy, text) if spelled else policy.tokenizer.encode(text, add_special_tokens=False)
    for token in ids:
        watch.wrote(token, -0.1, 0.2)
    watch.wrote(policy.chat.end_id, -0.1, 0.2)
    return reader


@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>7</answer>", "7"),
        ("<answer> a red  card \n</answer>", "a red  card"),
        ("I see it. <answer>1 < 2 </ans 3</answer> and more", "1 < 2 </ans 3"),
        ("<answer>ünïcödé 猫 🐈</answer>", "ünïcödé 猫 🐈"),
        ("<answer></answer>", ""),
        ("<answer>first</answer><answer>second</answer>", "first"),
        ("<answer>cut off here", "cut off here"),
        ('<tool_call>{"name": "ZOOM_IN", "arguments": {}}</tool_call>', ""),
        ("<tool_call>{}</tool_call><answer>not this</answer>", ""),
        ("neither", ""),
    ],
)
def test_what_is_read_adds_up_to_the_answer(starter: Policy, text: str, answer: str, spelled: bool) -> None:
    reader = read_along(starter, text, spelled=spelled)
    assert "".join(reader.read) == answer
    assert "" not in reader.read
    if spelled and len(answer) > 3:
        assert len(reader.read) > 3, "bit by bit, not at the end"


def test_confidence_is_that_of_the_answers_tokens_alone(starter: Policy) -> None:
    watch = AnswerWatch(starter.chat, None)
    for token in starter.tokenizer.encode("a guess <answer>27</answer>", add_special_tokens=False):
        inside = starter.tokenizer.decode([token]) in ("27", "2", "7")
        watch.wrote(token, math.log(0.5) if inside else -9.0, 0.25 if inside else 9.0)
    watch.acted(Action("answer", "a guess <answer>27</answer>"))
    assert watch.confidence == pytest.approx(0.5)
    assert watch.entropy == pytest.approx(0.25)


@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize("text", ["<answer>27 cats</answer>", "x<answer>猫</answer>y", "<answer></answer>"])
def test_the_span_holds_the_answer_and_no_tag(starter: Policy, text: str, spelled: bool) -> None:
    ids = list(bytes_apart(starter, text)) if spelled else starter.tokenizer.encode(text, add_special_tokens=False)
    first, stop = answer_span(starter.chat, ids)
    answer = text.partition("<answer>")[2].partition("</answer>")[0]
    assert starter.chat.text(ids[first:stop]) == (answer or text)


def test_only_operations_that_have_answered_are_told(starter: Policy) -> None:
    reader = Reader()
    watch = AnswerWatch(starter.chat, reader)
    called = Action("operation", "…", "ZOOM_IN", {}, observation="image_2")
    for action in (Action("invalid", "…", observation="error"), called, Action("operation", "…", "ZOOM_IN", {})):
        watch.acted(action)
    assert reader.actions == [called]
    assert watch.confidence == watch.entropy == 0.0
