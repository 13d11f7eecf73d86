"""What an update is made of: rewards, advantages, comparisons, merged weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from share.kernel.adaptation.arbiter import sign_test
from share.kernel.contracts.task import Prompt
from share.kernel.media.operator import Operator
from share.kernel.policy.loading import LoRAConfig, Policy, PolicyConfig
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import Group, RolloutConfig, RolloutKey, rollout
from share.kernel.serving.lessons import Lesson, agreement, divergence, logprobs_of, of_task, score
from share.kernel.serving.qualify import Standing, compare, qualify
from share.kernel.serving.trainable import Trainable
from share.kernel.serving.update_config import QualifyConfig, UpdateConfig
from share.kernel.serving.update_task import LearnTask
from share.kernel.serving.weights import with_weights

CONFIG = RolloutConfig(group_size=6, turns_max=2, tokens_max=64)


@pytest.fixture(scope="module")
def group(starter: Policy, questions: list[Prompt]) -> Group:
    """Samples without operations, so that the starter guesses: answers differ."""
    operator = Operator({}, fit=starter.fit)
    return rollout(starter, questions[:1], operator, CONFIG, RolloutKey(0, 0))[0]


def lesson_of(starter: Policy, group: Group, answer: str, kind: str, **metadata: object) -> Lesson:
    task = LearnTask.model_validate(
        {"question": group.prompt.question, "answer": answer, "kind": kind, "learning_rate": 1e-3, **metadata}
    )
    exercise = of_task(task, replace(group.prompt, answer=answer), 1e-3)
    return score(starter, exercise, group, CONFIG.tokens_max)


def answered(group: Group, *answers: str | None) -> Group:
    """The same rollouts, as if they had ended with these answers."""
    rollouts = [
        replace(each, trajectory=replace(each.trajectory, answer=answer, finish="answer" if answer else "invalid"))
        for each, answer in zip(group.rollouts, answers, strict=True)
    ]
    return Group(group.prompt, tuple(rollouts))


def test_every_sample_is_rewarded_against_the_target_and_not_against_the_majority(
    starter: Policy, group: Group
) -> None:
    said = answered(group, "five", "5", "7", "7", "7", None)
    lesson = lesson_of(starter, said, "5.0", "gated", answer_type="number")
    assert lesson.rewards == (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    assert sum(lesson.advantages) == pytest.approx(0.0)
    assert min(lesson.advantages[:2]) > 0.0 > max(lesson.advantages[2:])
    assert len(lesson.group.rollouts) == 6


def test_what_the_gate_let_pass_teaches_nothing_when_no_sample_says_it(starter: Policy, group: Group) -> None:
    assert not lesson_of(starter, answered(group, *"777777"), "5", "gated").teaches


@pytest.mark.parametrize("kind", ["approved", "corrected"])
def test_what_a_person_said_is_shown_where_no_sample_says_it(starter: Policy, group: Group, kind: str) -> None:
    lesson = lesson_of(starter, answered(group, *"777777"), "5", kind)
    shown = lesson.group.rollouts[-1]
    assert (lesson.num_samples, len(lesson.group.rollouts)) == (6, 7)
    assert starter.chat.text(shown.completion_ids.tolist()).endswith("<answer>5</answer>")
    assert lesson.advantages[-1] > 0.0 > max(lesson.advantages[:-1])


@pytest.mark.parametrize("answer", ["<|im_end|>", "a</answer><answer>b", "<|image_pad|>", "x" * 500])
def test_a_target_that_cannot_be_written_as_an_answer_is_not_shown(starter: Policy, group: Group, answer: str) -> None:
    assert len(lesson_of(starter, answered(group, *"777777"), answer, "corrected").group.rollouts) == 6


def test_a_rejected_answer_is_pushed_down_and_no_other_up(starter: Policy, group: Group) -> None:
    lesson = lesson_of(starter, answered(group, "7", "7", "7", "3", "4", None), " 7. ", "rejected")
    assert lesson.rewards == (0.0, 0.0, 0.0, 0.5, 0.5, 0.5)
    assert lesson.advantages == (-1.0, -1.0, -1.0, 0.0, 0.0, 0.0)
    assert lesson_of(starter, answered(group, *"777777"), "7", "rejected").advantages == (-1.0,) * 6


def test_only_the_turn_that_answered_is_blamed_for_a_rejected_answer(starter: Policy, group: Group) -> None:
    acted = [
        replace(each, action_mask=torch.tensor([True, False, False] + [True] * (len(each.completion_ids) - 3)))
        for each in group.rollouts
    ]
    lesson = lesson_of(starter, answered(Group(group.prompt, tuple(acted)), *"777777"), "7", "rejected")
    for mask, each in zip(lesson.masks, acted, strict=True):
        assert mask.tolist() == [False] * 3 + [True] * (len(each.completion_ids) - 3)


def test_a_task_counts_by_its_learning_rate_and_a_reviewer_by_trust(starter: Policy, group: Group) -> None:
    said = answered(group, *"577777")
    whole = lesson_of(starter, said, "5", "gated").advantages
    assert lesson_of(starter, said, "5", "gated", trust=0.5).advantages == whole
    for change in ({"trust": 0.25, "kind": "rejected"}, {"learning_rate": 0.25e-3, "kind": "rejected"}):
        lesson = lesson_of(starter, said, "5", **change)  # type: ignore[arg-type]
        assert lesson.advantages == (-0.25, 0, 0, 0, 0, 0)


def test_the_three_shares_of_ttrl(starter: Policy, group: Group) -> None:
    """Majority 7 of six samples; the truth is 5 once, unknown once."""
    said = answered(group, *"557777")
    known, unknown = lesson_of(starter, said, "5", "corrected"), lesson_of(starter, said, "7", "gated")
    shares = agreement([known, unknown])
    assert shares.label_accuracy == 0.0
    assert shares.reward_accuracy == 0.0, "every sample is rewarded the wrong way round"
    assert shares.majority_ratio == pytest.approx(4 / 6)
    lucky = agreement([lesson_of(starter, answered(group, *"345677"), "5", "corrected")])
    assert lucky.reward_accuracy == pytest.approx(3 / 6), "a wrong majority still punishes other wrong answers"


def test_a_policy_does_not_diverge_from_itself(starter: Policy, group: Group) -> None:
    lesson = lesson_of(starter, group, "5", "corrected")
    assert abs(divergence([lesson], logprobs_of(starter, [lesson.group], 2))) < 1e-6
    elsewhere = {each: each.behavior_logprobs - 0.1 for each in lesson.group.rollouts}
    assert divergence([lesson], elsewhere) == pytest.approx(np.expm1(-0.1) + 0.1, rel=1e-4)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_the_exact_binomial_test(won: int, lost: int) -> None:
    expected = binomtest(lost, won + lost, 0.5, alternative="greater").pvalue if won + lost else 1.0
    assert sign_test(won, lost) == pytest.approx(expected)


STANDING = Standing((True,) * 16 + (False,) * 16, 0.5, -0.5)


def qualified(candidate: Standing = STANDING, audited: list[tuple[bool, bool]] | None = None) -> tuple[str, ...]:
    return qualify(QualifyConfig(), candidate, STANDING, STANDING, audited or []).failures


def test_a_candidate_that_is_as_good_qualifies() -> None:
    assert qualified() == ()
    assert qualified(replace(STANDING, right=(True,) * 15 + (False,) * 16 + (True,))) == ()


def test_a_candidate_that_is_clearly_worse_does_not() -> None:
    worse = replace(STANDING, right=(True,) * 11 + (False,) * 21)
    assert sum("anchors" in failure for failure in qualified(worse)) == 2
    drawn = replace(STANDING, right=(True,) * 12 + (False,) * 20)
    assert compare([(True, False)] * 4).probability == 1.0
    assert qualified(drawn), "four of 32 are more than may be lost, even if it could be chance"
    assert not qualified(replace(STANDING, right=(True,) * 13 + (False,) * 19))


def test_versions_that_lose_on_audited_items_let_no_candidate_pass() -> None:
    assert not qualified(audited=[(False, True)] * 4 + [(True, True)] * 50)
    assert qualified(audited=[(False, True)] * 5 + [(True, True)] * 50)
    assert not qualified(audited=[(False, True)] * 5 + [(True, False)] * 5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"entropy": 0.29}, "entropy"),
        ({"logprob": -2.6}, "log-probability"),
        ({"entropy": float("nan")}, "entropy"),
        ({"logprob": float("nan")}, "log-probability"),
    ],
)
def test_a_candidate_that_collapsed_or_drifted_does_not_qualify(change: dict[str, float], word: str) -> None:
    (failure,) = qualified(replace(STANDING, **change))  # type: ignore[arg-type]
    assert failure.startswith(word)


def test_small_losses_of_entropy_do_not_add_up_over_versions() -> None:
    served = STANDING
    for _ in range(10):
        candidate = replace(served, entropy=0.9 * served.entropy)
        failures = qualify(QualifyConfig(), candidate, served, STANDING, []).failures
        if failures:
            break
        served = candidate
    (failure,) = failures
    assert failure == "entropy: 0.59 times that of the shipped policy (at least 0.6)"


@pytest.mark.parametrize("what", ["lora", "norm", "all"])
def test_the_plain_values_of_what_is_trained_are_the_policy_that_is_trained(
    starter: Policy, group: Group, what: str
) -> None:
    config = UpdateConfig.model_validate({"operations": ()})
    trainable = Trainable(PolicyConfig(), what, LoRAConfig(rank=2, alpha=4.0), config, seed=0)  # type: ignore[arg-type]
    same = trainable.values(trainable.weights())
    own = dict(starter.model.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in same.items())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.learner.parameters.values():
            parameter += 0.02 * torch.randn_like(parameter)
    values = trainable.values(trainable.weights())
    assert set(values) == set(trainable.names)
    assert (what == "all") == (len(values) == len(own))
    assert what != "norm" or all("norm" in name or "ln_q" in name for name in values)
    with torch.no_grad():
        trained = torch.cat([logprobs for logprobs, _ in token_logprobs(trainable.policy, [group])])
        plain = torch.cat([logprobs for logprobs, _ in token_logprobs(with_weights(starter, values), [group])])
        before = torch.cat([logprobs for logprobs, _ in token_logprobs(starter, [group])])
    torch.testing.assert_close(trained, plain, rtol=1e-4, atol=1e-4)
    assert (trained - before).abs().max() > 0.01
    trainable.begin(values)
    again = trainable.values(trainable.weights())
    assert all(torch.equal(again[name], values[name]) for name in values)
