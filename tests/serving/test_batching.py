"""Requests that are answered together: each as if alone, by one version, and none at the expense of another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.vision import OperationResult, Scene
from share.kernel.errors import DeadlineExceeded, EngineClosed, PolicyError, RequestDropped, ServiceFull
from share.kernel.events import StructuredLogger
from share.kernel.media.operator import Limits, Operator
from share.kernel.operation.zoom_in import ZoomIn, ZoomInArguments, ZoomInConfig
from share.kernel.policy.loading import Policy
from share.kernel.policy.rollout import RolloutKey, rollout
from share.kernel.serving.batching import Batcher, BatchingConfig, Prediction
from share.kernel.serving.versions import FROZEN, VersionStore
from share.kernel.serving.weights import ServedPolicies, with_weights
from tests.policy.test_families import FAMILIES, made
from tests.serving.test_answers import Reader
from tests.serving.variants import ALONE, alone, request, texts, variant, zooming

PATIENCE_S = 120.0
LOGGER = StructuredLogger(None, run_id="test", backend="test")
Start = Callable[..., Batcher]


class Held(ZoomIn):
    """Does not return from its first call until it is let go."""

    def __init__(self) -> None:
        super().__init__(ZoomInConfig(side_min=56, side_max=56))
        self.called = threading.Event()
        self.let_go = threading.Event()

    def run(self, scene: Scene, arguments: ZoomInArguments, /) -> OperationResult:
        if not self.called.is_set():
            self.called.set()
            assert self.let_go.wait(PATIENCE_S)
        return super().run(scene, arguments)


@pytest.fixture
def served(starter: Policy, tmp_path: Path) -> ServedPolicies:
    return ServedPolicies(lambda: starter, VersionStore(tmp_path))


@pytest.fixture
def start(served: ServedPolicies) -> Iterator[Start]:
    """Starts batchers; what a test holds back is let go before they are closed."""
    batchers: list[Batcher] = []
    held: list[Held] = []

    def begin(
        operation: Held | None = None,
        served: ServedPolicies = served,
        logger: StructuredLogger = LOGGER,
        **settings: Any,
    ) -> Batcher:
        policy = served.frozen().policy
        operator = zooming(policy)
        if operation is not None:
            operator = Operator({"ZOOM_IN": operation}, Limits(timeout_s=PATIENCE_S), fit=policy.fit)
            held.append(operation)
        config = BatchingConfig(**{"turns_max": ALONE.turns_max, "tokens_max": ALONE.tokens_max, **settings})
        batchers.append(Batcher(served, operator, config, logger))
        return batchers[-1]

    yield begin
    for operation in held:
        operation.let_go.set()
    for batcher in batchers:
        batcher.close()


def result(future: Future[Prediction]) -> Prediction:
    return future.result(PATIENCE_S)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def test_requests_are_answered_together_as_each_would_be_alone(
    start: Start, starter: Policy, questions: list[Prompt]
) -> None:
    batcher = start(rows_max=4)
    futures = [batcher.submit(request(prompt, number)) for number, prompt in enumerate(questions)]
    for number, (prompt, future) in enumerate(zip(questions, futures, strict=True)):
        prediction, expected = result(future), alone(starter, prompt)
        assert texts(prediction.trajectory) == texts(expected.trajectory)
        assert prediction.answer == (expected.trajectory.answer or "")
        assert prediction.trajectory.prompt_id == f"trace-{number}"
        assert prediction.policy_version == FROZEN
        assert prediction.prompt_tokens == len(expected.prompt_ids)
        assert prediction.completion_tokens == expected.num_actions
        assert prediction.scene.views.keys() == expected.scene.views.keys()
        last = expected.behavior_logprobs[expected.action_mask]
        if prediction.answer.isdigit():  # `<answer>`, one digit, `</answer>`, the end of the turn
            assert prediction.confidence == pytest.approx(float(last[-3].exp()), abs=1e-4)
            assert prediction.entropy >= 0.0


def test_an_answer_is_read_while_it_is_written_and_operations_are_told(start: Start, questions: list[Prompt]) -> None:
    batcher, reader = start(), Reader()
    prediction = result(batcher.submit(request(questions[0]), listener=reader))
    assert "".join(reader.read) == prediction.answer != ""
    assert reader.actions == list(prediction.trajectory.operations)
    assert len(reader.actions) == 1


def test_a_temperature_concerns_its_own_request_and_a_seed_repeats_it(
    start: Start, starter: Policy, questions: list[Prompt]
) -> None:
    batcher, prompt = start(), questions[0]
    futures = {
        (seed, attempt): batcher.submit(request(prompt, attempt, temperature=2.0, seed=seed))
        for attempt in range(2)
        for seed in range(6)
    }
    greedy = batcher.submit(request(prompt))
    drawn = {key: texts(result(future).trajectory) for key, future in futures.items()}
    assert all(drawn[seed, 0] == drawn[seed, 1] for seed in range(6))
    assert len({drawn[seed, 0] for seed in range(6)}) > 1
    assert texts(result(greedy).trajectory) == texts(alone(starter, prompt).trajectory)


def test_a_request_may_ask_for_fewer_tokens_and_not_for_more(start: Start, questions: list[Prompt]) -> None:
    batcher = start(tokens_max=8)
    few, many = (batcher.submit(request(questions[0], tokens_max=number)) for number in (3, 1000))
    assert (result(few).completion_tokens, result(few).trajectory.finish) == (3, "tokens_max")
    assert (result(many).completion_tokens, result(many).trajectory.finish) == (8, "tokens_max")
    assert (result(few).answer, result(few).confidence, result(few).entropy) == ("", 0.0, 0.0)


def test_a_prompt_that_cannot_be_made_fails_alone(start: Start, questions: list[Prompt]) -> None:
    batcher = start()
    good = batcher.submit(request(questions[0]))
    bad = batcher.submit(request(Prompt("p", "t", "what is <|image_pad|>?", questions[0].images, "")))
    with pytest.raises(PolicyError, match="image tokens"):
        result(bad)
    assert result(good).answer


def test_requests_begin_with_the_live_version_and_end_with_it(
    start: Start, served: ServedPolicies, starter: Policy, questions: list[Prompt]
) -> None:
    """One is held in the middle of its rollout while another version is published, taken back, and published again."""
    version = served.store.write(variant(starter, 7), FROZEN, {})
    operation = Held()
    batcher = start(operation)
    first = batcher.submit(request(questions[0]))
    assert operation.called.wait(PATIENCE_S)
    served.adopt(version)
    second = result(batcher.submit(request(questions[1])))
    frozen = result(batcher.submit(request(questions[1]), expert="frozen"))
    assert (second.policy_version, frozen.policy_version) == (version, FROZEN)
    assert texts(second.trajectory) == texts(alone(served.live().policy, questions[1]).trajectory)
    assert texts(frozen.trajectory) == texts(alone(starter, questions[1]).trajectory)
    assert texts(second.trajectory) != texts(frozen.trajectory)
    served.roll_back()
    assert result(batcher.submit(request(questions[1]))).policy_version == FROZEN
    served.adopt(version)
    operation.let_go.set()
    assert result(first).policy_version == FROZEN
    assert texts(result(first).trajectory) == texts(alone(starter, questions[0]).trajectory)


def test_no_request_fails_or_mixes_versions_while_they_are_published_and_taken_back(
    start: Start, served: ServedPolicies, starter: Policy, questions: list[Prompt]
) -> None:
    """Twenty publishes and five rollbacks under load; each reply is exactly what the version that it names gives."""
    batcher, prompts, variants = start(rows_max=8), questions[:3], range(4)
    expected: dict[tuple[int, int], Prediction] = {}
    names: dict[str, int] = {}
    for number in variants:
        version = served.store.write(variant(starter, number), FROZEN, {})
        served.adopt(version)
        names[version] = number
        for place, prompt in enumerate(prompts):
            expected[number, place] = result(batcher.submit(request(prompt)))
            assert expected[number, place].policy_version == version
    assert len({texts(each.trajectory) for (_, place), each in expected.items() if place == 0}) > 1
    assert len({each.confidence for (_, place), each in expected.items() if place == 0}) == len(variants)

    replies: list[tuple[int, Prediction]] = []
    failures: list[BaseException] = []
    is_over = threading.Event()

    def ask(client: int) -> None:
        rng = random.Random(client)
        while not is_over.is_set():
            place = rng.randrange(len(prompts))
            try:
                replies.append((place, result(batcher.submit(request(prompts[place])))))
            except BaseException as error:
                failures.append(error)
                return

    clients = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
    for client in clients:
        client.start()
    for publish in range(20):
        number, seen = publish % len(variants), len(replies)
        version = served.store.write(variant(starter, number), served.live().version, {})
        names[version] = number
        served.adopt(version)
        if publish % 4 == 3:
            served.roll_back()
        until(lambda seen=seen: len(replies) > seen + 1 or bool(failures))  # type: ignore[misc]
    is_over.set()
    for client in clients:
        client.join()
    assert not failures
    assert len({prediction.policy_version for _, prediction in replies}) > 5
    for place, prediction in replies:
        wanted = expected[names[prediction.policy_version], place]
        assert texts(prediction.trajectory) == texts(wanted.trajectory)
        assert prediction.confidence == pytest.approx(wanted.confidence, abs=1e-4)
    assert served.num_bytes <= 3 * served.live().num_bytes
    assert len(batcher._aloft) <= 3, "versions that nobody will ask again are let go"


def test_a_client_who_goes_away_frees_its_place(start: Start, starter: Policy, questions: list[Prompt]) -> None:
    """The only place is taken by a request whose operation does not return."""
    operation, reader = Held(), Reader()
    batcher = start(operation, rows_max=1)
    first = batcher.submit(request(questions[0]), listener=reader)
    assert operation.called.wait(PATIENCE_S)
    second = batcher.submit(request(questions[1]))
    reader.is_gone = True
    with pytest.raises(RequestDropped):
        result(first)
    assert texts(result(second).trajectory) == texts(alone(starter, questions[1]).trajectory)
    assert reader.read == []


def test_who_goes_away_while_waiting_is_never_begun(start: Start, questions: list[Prompt]) -> None:
    operation, reader = Held(), Reader()
    batcher = start(operation, rows_max=1)
    first = batcher.submit(request(questions[0]))
    assert operation.called.wait(PATIENCE_S)
    gone, cancelled = batcher.submit(request(questions[1]), listener=reader), batcher.submit(request(questions[1]))
    reader.is_gone = True
    assert cancelled.cancel()
    with pytest.raises(RequestDropped):
        result(gone)
    until(lambda: batcher.num_waiting == 0)
    operation.let_go.set()
    assert result(first).answer


def test_what_has_not_begun_by_its_deadline_costs_nothing(start: Start, questions: list[Prompt]) -> None:
    operation, reader = Held(), Reader()
    batcher = start(operation, rows_max=1)
    first = batcher.submit(request(questions[0], deadline=time.monotonic() + PATIENCE_S))
    assert operation.called.wait(PATIENCE_S)
    late = batcher.submit(request(questions[1], deadline=time.monotonic() + 0.05), listener=reader)
    with pytest.raises(DeadlineExceeded, match="trace-0"):
        result(late)
    assert not first.done(), "what has begun goes on"
    operation.let_go.set()
    assert result(first).answer
    assert reader.read == []


def test_a_full_queue_says_when_to_come_back(start: Start, questions: list[Prompt]) -> None:
    operation = Held()
    batcher = start(operation, rows_max=1, queue_max=2)
    first = batcher.submit(request(questions[0]))
    assert operation.called.wait(PATIENCE_S)
    waiting = [batcher.submit(request(questions[1])) for _ in range(2)]
    with pytest.raises(ServiceFull, match="queue_max") as refused:
        batcher.submit(request(questions[1]))
    assert 0.0 < refused.value.retry_after_s < PATIENCE_S
    behind = [batcher.submit(request(questions[1]), background=True) for _ in range(2)]
    with pytest.raises(ServiceFull):
        batcher.submit(request(questions[1]), background=True)
    assert (batcher.num_running, batcher.num_waiting) == (1, 2)
    operation.let_go.set()
    assert all(result(future).answer for future in [first, *waiting, *behind])


def test_the_background_begins_when_no_other_waits(start: Start, questions: list[Prompt]) -> None:
    operation, order = Held(), list[str]()
    batcher = start(operation, rows_max=1)
    futures = {"first": batcher.submit(request(questions[0]))}
    assert operation.called.wait(PATIENCE_S)
    futures["background"] = batcher.submit(request(questions[1]), background=True)
    futures |= {name: batcher.submit(request(questions[2])) for name in ("second", "third")}
    for name, future in futures.items():
        future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    operation.let_go.set()
    assert all(result(future).answer for future in futures.values())
    assert (order[0], order[-1]) == ("first", "background")


def test_the_background_gets_somewhere_while_others_are_answered_without_end(
    start: Start, questions: list[Prompt]
) -> None:
    batcher = start(rows_max=4)
    behind = batcher.submit(request(questions[0]), background=True)
    until(lambda: batcher.num_running == 1)
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            result(batcher.submit(request(questions[1])))

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        assert result(behind).answer
    finally:
        stopped.set()
        for client in clients:
            client.join()


def test_an_operation_that_takes_long_holds_up_nobody_else(
    start: Start, starter: Policy, questions: list[Prompt]
) -> None:
    operation = Held()
    batcher = start(operation)
    first = batcher.submit(request(questions[0]))
    assert operation.called.wait(PATIENCE_S)
    for prompt in questions[1:4]:
        assert texts(result(batcher.submit(request(prompt))).trajectory) == texts(alone(starter, prompt).trajectory)
    assert not first.done()
    operation.let_go.set()
    assert texts(result(first).trajectory) == texts(alone(starter, questions[0]).trajectory)


def test_a_forward_that_fails_fails_its_requests_and_no_later_ones(
    start: Start, starter: Policy, questions: list[Prompt], tmp_path: Path
) -> None:
    policy, is_broken = with_weights(starter, {}), threading.Event()

    def break_down(*_: object) -> None:
        if is_broken.is_set():
            raise RuntimeError("out of memory over jane.roe@example.org")

    policy.backbone.language.register_forward_pre_hook(break_down)  # type: ignore[union-attr]
    logger = StructuredLogger(tmp_path / "events.jsonl", run_id="test", backend="test")
    batcher = start(served=ServedPolicies(lambda: policy, VersionStore(tmp_path / "broken")), logger=logger)
    is_broken.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        result(batcher.submit(request(questions[0])))
    is_broken.clear()
    assert result(batcher.submit(request(questions[0]))).answer == (alone(starter, questions[0]).trajectory.answer)
    logger.close()
    written = (tmp_path / "events.jsonl").read_text()
    assert "1 requests failed: RuntimeError at " in written
    assert "jane.roe" not in written, "the message may hold what a user sent"


def test_closing_finishes_what_was_taken_and_takes_no_more(start: Start, questions: list[Prompt]) -> None:
    batcher = start(rows_max=2)
    futures = [batcher.submit(request(prompt), background=number == 0) for number, prompt in enumerate(questions[:5])]
    batcher.close()
    assert all(future.done() and future.result() for future in futures)
    with pytest.raises(EngineClosed):
        batcher.submit(request(questions[0]))


def test_embeddings_are_the_frozen_policys_whoever_answers(
    start: Start, served: ServedPolicies, questions: list[Prompt]
) -> None:
    batcher = start()
    before = result(batcher.submit(request(questions[0])))
    parameters = dict(served.frozen().policy.model.named_parameters())
    changed = {
        name: parameters[name].detach() * 1.5
        for name in ("model.visual.patch_embed.proj.weight", "model.language_model.embed_tokens.weight")
    }
    served.adopt(served.store.write(changed, FROZEN, {}))
    after = result(batcher.submit(request(questions[0])))
    other = result(batcher.submit(request(questions[1])))
    assert before.policy_version != after.policy_version
    for name in ("visual_embedding", "text_embedding"):
        one, same, another = (getattr(each, name) for each in (before, after, other))
        assert (one.dtype, one.shape) == (np.float32, (128,))
        assert float(np.linalg.norm(one)) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(one, same, atol=1e-5)
        assert float(one @ another) < 1.0 - 1e-6
    blind = result(batcher.submit(request(Prompt("p", "t", questions[0].question, (), ""))))
    assert not blind.visual_embedding.any()


def test_a_version_knows_the_images_of_the_one_before_unless_it_sees_otherwise(
    start: Start, served: ServedPolicies, questions: list[Prompt]
) -> None:
    batcher, policy, runs = start(), served.frozen().policy, list[int]()
    handle = policy.base.model.visual.register_forward_pre_hook(lambda *_: runs.append(1))
    before = result(batcher.submit(request(questions[0], tokens_max=2)))
    served.adopt(served.store.write(variant(policy, 7), FROZEN, {}))
    assert len(runs) == 1
    same = result(batcher.submit(request(questions[0], tokens_max=2)))
    assert len(runs) == 1, "the version sees as the one before"
    name = "model.visual.patch_embed.proj.weight"
    weight = dict(policy.model.named_parameters())[name].detach()
    served.adopt(served.store.write({name: weight.flip(0)}, FROZEN, {}))
    seen = result(batcher.submit(request(questions[0])))
    handle.remove()
    assert texts(seen.trajectory) == texts(alone(served.live().policy, questions[0]).trajectory)
    assert len({each.policy_version for each in (before, same, seen)}) == 3


def test_a_video_shows_its_first_and_last_frame(start: Start, questions: list[Prompt]) -> None:
    frames = tuple(prompt.images[0] for prompt in questions[:5])
    batcher = start()
    prediction = result(batcher.submit(request(Prompt("p", "t", questions[0].question, frames, ""), is_video=True)))
    assert [view.source for view in prediction.scene.views.values()][:2] == [0, 4]
    assert prediction.scene.is_video


@pytest.mark.parametrize("make", FAMILIES)
def test_every_family_is_served(
    make: Callable[[Any], Any], start: Start, questions: list[Prompt], tmp_path: Path
) -> None:
    policy = made(make, tmp_path / "policy")
    for parameter in policy.model.parameters():
        if not parameter.any():  # a projection of Gemma's begins with zeros, and would see nothing
            torch.nn.init.normal_(parameter, std=0.1)
    operator = zooming(policy)
    batcher = start(served=ServedPolicies(lambda: policy, VersionStore(tmp_path / "store")), tokens_max=24)
    greedy = ALONE.model_copy(update={"tokens_max": 24})
    futures = [batcher.submit(request(prompt)) for prompt in questions[:3]]
    for prompt, future in zip(questions, futures, strict=False):
        expected = rollout(policy, [prompt], operator, greedy, RolloutKey(0, 0))[0].rollouts[0]
        assert texts(result(future).trajectory) == texts(expected.trajectory)
        visual, text = result(future).visual_embedding, result(future).text_embedding
        assert visual.shape == text.shape
        assert [float(np.linalg.norm(each)) for each in (visual, text)] == pytest.approx([1.0, 1.0], abs=1e-5)
