"""The update worker with the starter policy: what is said of an answer changes it, and what does harm never serves."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue

from share.kernel.config import validate
from share.kernel.contracts.task import Prompt
from share.kernel.errors import CheckpointError, ConfigError
from share.kernel.media.operator import Operator, load_operator
from share.kernel.policy.loading import Policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import Group, RolloutConfig, RolloutKey, open_prompt, rollout
from share.kernel.registry import Registry
from share.kernel.serving.lessons import of_task, score
from share.kernel.serving.qualify import answered_greedily
from share.kernel.serving.update_config import UpdateConfig, worker_settings
from share.kernel.serving.update_task import LEARN, RESTORE, LearnTask, UpdateResult
from share.kernel.serving.update_worker import UpdateWorker
from share.kernel.serving.versions import FROZEN, VersionStore
from share.kernel.serving.weights import with_weights
from share.kernel.transport.worker import Task

SMALL: dict[str, object] = {
    "rollout": {"group_size": 6, "turns_max": 3, "tokens_max": 64},
    "prompts_min": 3,
    "qualify": {"anchors": 8, "loss_max": 1.0},
    "policy": {"device": "cpu"},
}
RATE = 3e-3
Make = Callable[..., UpdateWorker]


@pytest.fixture
def make(registry: Registry, tmp_path: Path) -> Make:
    def made(directory: Path = tmp_path, version: str | None = None, **changes: object) -> UpdateWorker:
        config = validate(UpdateConfig, {**SMALL, **changes}, registry)
        worker = UpdateWorker(worker_settings(config, versions=directory / "versions", directory=directory))
        worker.take_over(version)
        return worker

    return made


@pytest.fixture(scope="module")
def operator(registry: Registry, starter: Policy) -> Operator:
    return load_operator(registry, validate(UpdateConfig, {}, registry).operations, fit=starter.fit)


@pytest.fixture(scope="module")
def said(starter: Policy, operator: Operator, questions: list[Prompt]) -> list[str]:
    """What the starter answers to the questions."""
    opened = [open_prompt(starter, prompt, operator.schemas()) for prompt in questions]
    groups = answered_greedily(starter, opened, operator, RolloutConfig())
    return [group.rollouts[0].trajectory.answer or "" for group in groups]


@pytest.fixture(scope="module")
def missed(questions: list[Prompt], said: list[str]) -> Prompt:
    """The first question that the starter answers wrongly."""
    return next(prompt for prompt, answer in zip(questions, said, strict=True) if answer != prompt.answer)


@pytest.fixture(scope="module")
def wrong(missed: Prompt, questions: list[Prompt], said: list[str]) -> str:
    """What it answers instead."""
    return said[questions.index(missed)]


def lesson(name: str, prompt: Prompt, kind: str = "corrected", **metadata: JsonValue) -> Task:
    told: dict[str, JsonValue] = {"question": prompt.question, "answer": prompt.answer, "kind": kind}
    images = {f"image {number}": torch.from_numpy(pixels) for number, pixels in enumerate(prompt.images)}
    return Task(name, LEARN, {**told, "learning_rate": RATE, **metadata}, images)


def handled(worker: UpdateWorker, *tasks: Task) -> list[UpdateResult]:
    results = worker.handle(tasks).results
    return [UpdateResult.model_validate(results[task.task_id]) for task in tasks]


def likelihood(starter: Policy, operator: Operator, prompt: Prompt, answer: str) -> Callable[[Policy], float]:
    """The log-probability of writing this answer, after the operations of a sample of the starter's."""
    group = rollout(starter, [prompt], operator, RolloutConfig(group_size=8, turns_max=3), RolloutKey(5, 5))[0]
    told = LearnTask(question=prompt.question, answer=answer, kind="corrected", learning_rate=1.0)
    asked = Prompt(prompt.prompt_id, prompt.task, prompt.question, prompt.images, answer)
    shown = score(starter, of_task(told, asked, 1.0), group, 512).group.rollouts[-1]
    assert shown.trajectory.answer == answer

    def of(policy: Policy) -> float:
        with torch.no_grad():
            return float(token_logprobs(policy, [Group(prompt, (shown,))])[0][0][-4:].sum())

    return of


@pytest.mark.parametrize(("kind", "gain"), [("approved", 0.02), ("corrected", 0.5)])
def test_what_a_person_says_to_be_right_becomes_likelier_with_every_update(
    make: Make,
    starter: Policy,
    operator: Operator,
    questions: list[Prompt],
    said: list[str],
    missed: Prompt,
    tmp_path: Path,
    kind: str,
    gain: float,
) -> None:
    worker, store = make(), VersionStore(tmp_path / "versions")
    met = next(prompt for prompt, answer in zip(questions, said, strict=True) if answer == prompt.answer)
    prompt = met if kind == "approved" else missed
    likely = likelihood(starter, operator, prompt, prompt.answer)
    before, parent = likely(starter), FROZEN
    for number in range(3):
        (result,) = handled(worker, lesson(f"t{number}", prompt, kind))
        assert result.parent == parent
        if result.outcome == "no_signal":
            assert result.reward == 1.0, "all samples say it"
            continue
        assert (result.outcome, result.mode) == ("learned", "adapted"), result.reason
        assert result.version is not None
        after = likely(with_weights(starter, store.read(result.version)))
        assert after > before
        before, parent = after, result.version
    assert before > likely(starter) + gain
    assert store.live() == FROZEN, "the worker publishes nothing"


def test_an_answer_that_was_rejected_becomes_less_likely(
    make: Make, starter: Policy, operator: Operator, missed: Prompt, wrong: str, tmp_path: Path
) -> None:
    worker, store = make(prompts_min=1, replay_share=0.0), VersionStore(tmp_path / "versions")
    likely = likelihood(starter, operator, missed, wrong)
    results = [handled(worker, lesson(f"t{n}", missed, "rejected", answer=wrong))[0] for n in range(3)]
    versions = [result.version for result in results if result.version is not None]
    assert versions, [result.reason for result in results]
    assert likely(with_weights(starter, store.read(versions[-1]))) < likely(starter) - 0.1


def test_an_approved_answer_and_a_gated_one_are_learned_together_with_anchors(
    make: Make, questions: list[Prompt]
) -> None:
    worker = make(replay_share=0.5, prompts_min=1)
    tasks = [lesson(f"t{number}", prompt, "approved") for number, prompt in enumerate(questions[:3])]
    results = handled(worker, *tasks, lesson("t3", questions[3], "gated", learning_rate=RATE / 10))
    assert len({result.version for result in results}) == 1
    first = results[0]
    assert first.counters.updates == 1
    assert first.counters.anchors == 2
    assert (first.kl_frozen, first.kl_served) == (pytest.approx(0.0, abs=1e-6),) * 2
    assert all(share is not None and 0.0 <= share <= 1.0 for share in (first.label_accuracy, first.majority_ratio))
    assert {result.reward for result in results} <= {number / 6 for number in range(7)}
    assert first.qualification is not None
    assert first.qualification.against_frozen.items == 8


def test_audited_items_are_asked_before_they_are_learned(make: Make, missed: Prompt) -> None:
    worker = make()
    for number in range(2):
        (result,) = handled(worker, lesson(f"t{number}", missed))
        assert result.qualification is not None
        assert result.qualification.audited.items == number, "the shipped policy is not compared with itself"


def test_a_step_that_is_not_finite_is_skipped_and_changes_nothing(make: Make, missed: Prompt, tmp_path: Path) -> None:
    worker = make()
    handled(worker, lesson("t0", missed))
    learning = worker._learning
    before = copy.deepcopy(learning.state())
    parameter = next(iter(learning._trainable.learner.parameters.values()))
    poison = parameter.register_hook(lambda gradient: gradient * float("inf"))
    (result,) = handled(worker, lesson("t1", missed))
    poison.remove()
    assert (result.outcome, result.version, result.counters.skipped) == ("skipped", None, 1)
    learning._trainable.learner.optimizer.state[parameter]["exp_avg"].fill_(float("nan"))
    (result,) = handled(worker, lesson("t2", missed))
    assert (result.outcome, result.version, result.counters.skipped) == ("skipped", None, 2)
    after = learning.state()
    assert after.version == before.version
    for name, weights in before.learner["policy"].items():
        assert torch.equal(after.learner["policy"][name], weights)
        assert torch.equal(after.mean[name], before.mean[name])
    assert VersionStore(tmp_path / "versions").newest() == [before.version]


def test_a_candidate_that_does_harm_is_dropped_and_the_third_in_a_row_resets(make: Make, missed: Prompt) -> None:
    worker = make(qualify={"anchors": 8, "loss_max": 0.1})
    good = next(
        result for n in range(4) if (result := handled(worker, lesson(f"t{n}", missed))[0]).outcome == "learned"
    )
    for number in range(2):
        (result,) = handled(worker, lesson(f"bad {number}", missed, learning_rate=0.5))
        assert (result.outcome, result.version) == ("unqualified", None)
        assert result.qualification is not None
        assert result.qualification.failures
        assert result.counters.failures_in_a_row == number + 1
    (result,) = handled(worker, lesson("bad 2", missed, learning_rate=0.5))
    assert (result.outcome, result.parent, result.version, result.mode) == ("reset", good.version, FROZEN, "frozen")
    assert result.counters.resets == 1
    (result,) = handled(worker, lesson("after", missed))
    assert result.parent == FROZEN
    assert result.kl_frozen == pytest.approx(0.0, abs=1e-6), "all that was learned is gone"


def test_too_large_a_divergence_puts_back_what_serves_and_then_what_was_shipped(make: Make, missed: Prompt) -> None:
    qualify = {"anchors": 8, "loss_max": 1.0, "audited_window": 0}
    worker = make(kl={"target_kl": 1e-5, "kl_tolerance": 1e-6}, qualify=qualify)
    first, second, third = (handled(worker, lesson(f"t{number}", missed))[0] for number in range(3))
    assert first.counters.kl_restores == 0
    assert (second.counters.kl_restores, second.counters.resets) == (1, 0)
    assert second.parent == first.version
    assert second.kl_served == pytest.approx(0.0, abs=1e-6), "it was sampled anew from what serves"
    assert second.outcome == "learned", "a divergence stops no learning"
    assert (third.counters.kl_restores, third.counters.resets) == (2, 1)
    assert third.kl_frozen == pytest.approx(0.0, abs=1e-6)
    assert third.version is not None


def test_learning_goes_on_from_the_version_that_was_rolled_back_to(make: Make, missed: Prompt, tmp_path: Path) -> None:
    worker, store = make(), VersionStore(tmp_path / "versions")
    first, second = (handled(worker, lesson(f"t{number}", missed))[0] for number in range(2))
    assert first.version is not None
    assert second.version is not None
    back, unknown, after = handled(
        worker,
        Task("back", RESTORE, {"version": first.version}),
        Task("unknown", RESTORE, {"version": "v000099-00000000"}),
        lesson("t2", missed),
    )
    assert (back.outcome, back.parent, back.version) == ("restored", first.version, None)
    assert (unknown.outcome, unknown.version) == ("refused", None)
    assert "v000099-00000000" in unknown.reason
    assert after.parent == first.version
    assert after.kl_served == pytest.approx(0.0, abs=1e-6)
    assert after.version is not None
    assert store.manifest(after.version).parent == first.version


def test_a_worker_that_takes_over_computes_the_same_bits(make: Make, missed: Prompt, tmp_path: Path) -> None:
    """Also after a restore, when what is trained stands on the weights of a version."""
    killed = make(tmp_path / "killed")
    (first,) = handled(killed, lesson("t0", missed))
    assert first.version is not None
    commit = killed.handle([Task("back", RESTORE, {"version": first.version}), lesson("t1", missed)])
    shutil.copytree(tmp_path / "killed", tmp_path / "next")
    (expected,) = handled(killed, lesson("t2", missed))
    takes_over = make(tmp_path / "next", commit.version)
    (done,) = handled(takes_over, lesson("t2", missed))
    assert done.model_copy(update={"seconds": {}}) == expected.model_copy(update={"seconds": {}})
    with pytest.raises(CheckpointError, match="state-00000099"):
        takes_over.take_over("state-00000099")
    with pytest.raises(CheckpointError, match="is a checkpoint of"):
        make(tmp_path / "next", commit.version, lora={"rank": 2})
    assert not (tmp_path / "next" / "learning" / "step_00000003").exists(), "what was not committed is leftover"


@pytest.mark.parametrize("trainable", ["norm", "all"])
def test_a_version_changes_only_what_is_trained(make: Make, missed: Prompt, tmp_path: Path, trainable: str) -> None:
    worker = make(trainable=trainable)
    (result,) = handled(worker, lesson("t0", missed, learning_rate=1e-4))
    assert result.version is not None, result.reason
    changed = VersionStore(tmp_path / "versions").read(result.version)
    assert (trainable == "norm") == all("norm" in name or "ln_q" in name for name in changed)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"kind": "praised"}, "kind"),
        ({"answer": ""}, "answer"),
        ({"question": "<|image_pad|> what is this?"}, "image"),
    ],
)
def test_a_task_that_cannot_be_learned_from_is_refused_and_says_why(
    refusing: UpdateWorker, missed: Prompt, change: Mapping[str, JsonValue], word: str
) -> None:
    (result,) = handled(refusing, lesson("t0", missed, **{"kind": "corrected", **change}))  # type: ignore[arg-type]
    assert (result.outcome, result.version) == ("refused", None)
    assert word in result.reason
    assert missed.question not in result.reason


NO_IMAGES = (torch.zeros(8, 8, 3), torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(0, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize("pixels", NO_IMAGES, ids=["float32", "grey", "empty"])
def test_an_image_that_is_none_is_refused(refusing: UpdateWorker, missed: Prompt, pixels: torch.Tensor) -> None:
    told = lesson("t0", missed).metadata
    (result,) = handled(refusing, Task("t0", LEARN, told, {"image": pixels}))
    assert result.outcome == "refused"
    assert result.reason.startswith("image: ")


@pytest.fixture(scope="module")
def refusing(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> UpdateWorker:
    directory = tmp_path_factory.mktemp("refusing")
    config = validate(UpdateConfig, SMALL, registry)
    worker = UpdateWorker(worker_settings(config, versions=directory / "versions", directory=directory))
    worker.take_over(None)
    return worker


def test_settings_that_cannot_be_run_say_so_in_a_line(registry: Registry) -> None:
    for change, words in (
        ({"policy": {"lora": {"rank": 4}}}, "trainable: lora"),
        ({"rollout": {"group_size": 1}}, "needs 2 or more"),
        ({"rollout": {"temperature": 0.0}}, "must not be 0"),
        ({"policy": {"dtype": "float16"}}, "bfloat16"),
    ):
        with pytest.raises(ConfigError, match=words):
            validate(UpdateConfig, change, registry)
