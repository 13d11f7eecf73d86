"""The experts of the benchmark's reference, and confidence that means what it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from benchmarks.stream_experts import ResidualHead, SessionPrior
from share.kernel.adaptation.calibration import calibration_error, fit_calibration


def test_a_residual_head_begins_as_the_frozen_policy() -> None:
    rng = np.random.default_rng(0)
    logits_NC, features_ND = rng.normal(size=(5, 4)), rng.normal(size=(5, 7))
    assert ResidualHead(7, 4).predict(logits_NC, features_ND) == pytest.approx(softmax(logits_NC, axis=1))


def test_a_residual_head_learns_a_shift_from_audited_items_and_forgets_an_old_one() -> None:
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(4, 16))
    answers = rng.integers(0, 4, 80)
    features_ND = centers[answers] + rng.normal(scale=0.3, size=(80, 16))
    wrong = np.eye(4)[(answers + 1) % 4] * 2  # the frozen policy is sure of the next answer
    head = ResidualHead(16, 4, half_life=50)
    head.learn(wrong, features_ND, answers, 0)
    assert (head.predict(wrong, features_ND).argmax(axis=1) == answers).mean() > 0.95
    moved = (answers + 2) % 4
    for position in range(400, 440, 4):
        head.learn(wrong[:40], features_ND[:40], moved[:40], position)
    assert (head.predict(wrong[40:], features_ND[40:]).argmax(axis=1) == moved[40:]).mean() > 0.9


def test_a_session_prior_sees_what_is_in_season_but_not_what_one_client_repeats() -> None:
    unsure = np.full((16, 4), 0.2)
    unsure[:, 2] = 0.4
    many, one = SessionPrior(), SessionPrior()
    for _ in range(5):
        by_many = many.correct(unsure, np.arange(16))
        by_one = one.correct(unsure, np.zeros(16, np.int64))
    assert by_many[0, 2] > 0.6
    assert by_many[0, 2] > by_one[0, 2] + 0.1
    assert by_one.sum(axis=1) == pytest.approx(np.ones(16))


def test_confidences_of_answers_that_are_mostly_wrong_come_to_mean_what_they_say() -> None:
    rng = np.random.default_rng(2)
    stated = rng.uniform(0.5, 0.999, 4000)
    chance = expit(0.5 * logit(stated) - 2)
    right = rng.random(4000) < chance
    calibration = fit_calibration(stated[:2000], right[:2000])
    told = np.array([calibration(each) for each in stated[2000:]])
    before = calibration_error(stated[2000:], right[2000:])
    assert told.mean() < 0.5
    assert calibration_error(told, right[2000:]) < before / 8


def test_confidences_are_moved_slowly_and_are_left_as_they_are_without_evidence() -> None:
    assert 0.9 < fit_calibration(np.array([0.99]), np.array([False]))(0.99) < 0.99
    nothing = fit_calibration(np.zeros(0), np.zeros(0, bool))
    assert [nothing(each) for each in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]


def test_calibration_never_turns_the_order_of_confidences_around() -> None:
    stated = np.linspace(0.05, 0.95, 400)
    calibration = fit_calibration(stated, stated < 0.5)
    told = [calibration(each) for each in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert told == sorted(told)
    assert told[1] < told[3]


def test_calibration_error_of_a_known_case() -> None:
    assert calibration_error(np.array([0.95, 0.95]), np.array([True, False])) == pytest.approx(0.45)
