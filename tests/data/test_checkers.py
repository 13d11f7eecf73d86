"""Checkers: what counts as right, and that listing every possible answer does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from share.kernel.contracts.voting import AnswerType
from share.kernel.data.checkers import (
    ANSWER_CHARACTERS_MAX,
    canonical,
    choice,
    contains,
    edit_similarity,
    exact,
    levenshtein,
    numeric,
)


@pytest.mark.parametrize("answer", ["the Cat", " the  cat. ", "THE CAT!", '"the cat"'])
def test_exact_forgives_case_space_and_punctuation_at_the_ends(answer: str) -> None:
    assert exact(answer, "The cat") == 1.0


@pytest.mark.parametrize("answer", ["cat", "the cat sat", "", "thecat"])
def test_exact_forgives_nothing_else(answer: str) -> None:
    assert exact(answer, "the cat") == 0.0


@pytest.mark.parametrize("answer", ["7", " 7.", "seven", "There are 7 cups", "7.0"])
def test_a_number_is_found_in_what_was_written(answer: str) -> None:
    assert numeric(answer, "7") == 1.0


@pytest.mark.parametrize("answer", ["6", "", "many", "6 or 7", "1 2 3 4 5 6 7", "six, seven", "77", "-7"])
def test_a_number_must_be_the_only_one(answer: str) -> None:
    assert numeric(answer, "7") == 0.0


def test_thousands_separators_signs_and_exponents_are_numbers() -> None:
    assert numeric("12,345", "12345") == 1.0
    assert numeric("-0.5", "-0.50") == 1.0
    assert numeric("1e3", "1000") == 1.0


def test_a_tolerance_is_relative_above_one_and_absolute_below() -> None:
    assert numeric("104", "100", tolerance=0.05) == 1.0
    assert numeric("106", "100", tolerance=0.05) == 0.0
    assert numeric("0.04", "0", tolerance=0.05) == 1.0


def test_a_truth_that_is_no_number_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="not one number"):
        numeric("7", "some")


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "B) the cat", "(b) the cat", "B: the cat"])
def test_a_choice_is_a_letter_alone_or_as_a_label(answer: str) -> None:
    assert choice(answer, "B") == 1.0


@pytest.mark.parametrize("answer", ["A", "A B C D", "AB", "", "Because", "B or C", "A, B"])
def test_a_choice_is_one_letter(answer: str) -> None:
    assert choice(answer, "B") == 0.0


def test_contains_wants_whole_words_in_sequence() -> None:
    assert contains("I see a red cat, asleep", "Red cat") == 1.0
    assert contains("a red and black cat", "red cat") == 0.0
    assert contains("concatenate", "cat") == 0.0


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("same", "same", 0)],
)
def test_levenshtein_counts_edits(first: str, second: str, distance: int) -> None:
    assert levenshtein(first, second) == distance


def test_almost_right_text_scores_almost_one_and_half_wrong_text_nothing() -> None:
    assert edit_similarity("GATE 47", "gate 47") == 1.0
    assert edit_similarity("GATE 41", "Gate 47") == pytest.approx(6 / 7)
    assert edit_similarity("exit", "Gate 47") == 0.0


def test_an_endless_answer_scores_zero_at_once() -> None:
    assert edit_similarity("gate " * ANSWER_CHARACTERS_MAX, "gate") == 0.0


@given(st.text(max_size=60), st.text(max_size=60))
def test_every_checker_stays_within_zero_and_one_on_any_text(answer: str, truth: str) -> None:
    for check in (exact, contains, choice, edit_similarity):
        assert 0.0 <= check(answer, truth) <= 1.0
    assert numeric(answer, "3") in (0.0, 1.0)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_levenshtein_is_a_metric(first: str, second: str, third: str) -> None:
    assert levenshtein(first, second) == levenshtein(second, first)
    assert (levenshtein(first, second) == 0) == (first == second)
    assert levenshtein(first, third) <= levenshtein(first, second) + levenshtein(second, third)


@pytest.mark.parametrize(
    ("answer_type", "answers", "one"),
    [
        ("number", ["3", "3.0", "Three", "there are 3.", "+3e0"], "3"),
        ("number", ["-0", "0", "zero"], "0"),
        ("number", ["1,250", "1250.0"], "1250"),
        ("number", ["3 or 4", "3 OR 4 "], "3 or 4"),
        ("choice", ["B", "(b)", "b.", "B) the cat"], "b"),
        ("choice", ["Neither", "neither."], "neither"),
        ("text", ["Red  Car", "red car."], "red car"),
        ("text", ["3", "3."], "3"),
    ],
)
def test_answers_that_mean_the_same_have_one_canonical_form(
    answer_type: AnswerType, answers: list[str], one: str
) -> None:
    assert {canonical(answer, answer_type) for answer in answers} == {one}


@given(st.text(st.characters(codec="ascii"), max_size=30), st.sampled_from(["text", "number", "choice"]))
def test_a_canonical_answer_stays_as_it_is(answer: str, answer_type: AnswerType) -> None:
    form = canonical(answer, answer_type)
    assert canonical(form, answer_type) == form
