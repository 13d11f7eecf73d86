"""Continuous batching: one thread owns the forwards, and requests join and leave while others are decoded.

A request that finds nobody at work starts at once. One that comes while others are decoded joins them at a later token:
together with others that wait, because reading two prompts costs little more than reading one. Every request is
answered from its first token to its last by the version of the weights that was live when it began; when another is
published, those that began before finish beside those that begin then.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from share.kernel.config import ConfigModel
from share.kernel.contracts.task import Prompt
from share.kernel.errors import DeadlineExceeded, EngineClosed, RequestDropped, ServiceFull
from share.kernel.events import StructuredLogger, whereabouts
from share.kernel.policy.conversation import Conversation, copy_scene
from share.kernel.policy.rollout import Flight, RolloutConfig, open_flight, open_prompt
from share.kernel.policy.sampling import Draws, RolloutKey, row_key
from share.kernel.serving.admission import waiting_room
from share.kernel.serving.answers import AnswerWatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from share.kernel.contracts.serving import Listener, Request
    from share.kernel.contracts.trajectory import Trajectory
    from share.kernel.contracts.vision import Scene
    from share.kernel.media.operator import Operator
    from share.kernel.policy.rollout import OpenedPrompt
    from share.kernel.serving.weights import Served, ServedPolicies

    Vector = NDArray[np.float32]  # D

Asked = Literal["frozen", "adapted"]
"""Which of the served policies is asked."""

_FRAMES_SHOWN = 2
"""Frames of a video that the policy is shown at the start; operations reach the others."""

_BACKGROUND_EVERY = 8
"""While others are answered, a request in the background gets every so manieth token step."""

_LOOK_S = 0.02
"""Seconds after which the thread looks for clients that are gone, when nothing else wakes it."""


class BatchingConfig(ConfigModel):
    """How many requests are answered together, and how long each may take."""

    rows_max: int = Field(default=32, ge=1)
    """Requests that are decoded together at most; bounds the memory of kept keys."""
    queue_max: int = Field(default=64, ge=1)
    """Requests that wait at most, and as many in the background; more are turned away."""
    window: int = Field(default=4, ge=0)
    """Token steps that a request waits at most for others to join with, while requests before it are decoded."""
    turns_max: int = Field(default=4, ge=1)
    """Turns that the policy may take: operation calls and the answer."""
    tokens_max: int = Field(default=512, ge=1)
    """Tokens of a completion at most, those of observations included; a request may ask for fewer."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of probability that is sampled from where a request has a temperature, likeliest tokens first."""
    operation_threads: int = Field(default=4, ge=1, le=64)
    """Operations that run at the same time, while other requests are decoded; as many prompts are prepared."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a policy answered, and what its rollout tells about it.

    `answer` is empty when the rollout ended without one (`trajectory.finish` says why). `confidence` in [0, 1] is exp
    of the mean log-probability of the answer's tokens, uncalibrated, `entropy` the mean entropy of their distributions
    in nats; both are those at temperature 1, and 0 without an answer. `visual_embedding` is the mean of the features of
    the images that were shown, `text_embedding` that of the embeddings of the question's tokens, float32 of the same
    width and unit length; both are the frozen policy's, so that they stay comparable while weights change. Without
    images the first is zero.
    `policy_version` names the weights that wrote every token.
    `queue_ms` passed until the prompt was read, `predict_ms` from then on.
    """

    trajectory: Trajectory
    scene: Scene
    answer: str
    confidence: float
    entropy: float
    visual_embedding: Vector
    text_embedding: Vector
    policy_version: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    predict_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A prompt before anything was seen of it."""

    prompt: OpenedPrompt
    text_embedding: Vector


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request on its way. Times are those of `time.monotonic`; `waited` counts token steps since it could join."""

    request: Request
    asked: Asked
    is_background: bool
    watch: AnswerWatch
    opening: Future[_Opened]
    submitted: float
    seen: Callable[[Vector, Vector], None] | None
    future: Future[Prediction] = field(default_factory=Future)
    waited: int = 0
    begun: float = 0.0
    visual_embedding: Vector | None = None


@dataclass(slots=True, eq=False)
class _Aloft:
    """The requests that one version answers; those of the background by themselves."""

    served: Served
    is_background: bool
    flight: Flight
    requests: dict[Conversation, _Waiting] = field(default_factory=dict)


class Batcher:
    """Answers requests with the served policies, many at a time. Thread-safe; `close` ends its threads.

    `waiting_max` says how many wait at most where fewer are let in than `queue_max` would; None leaves it at the places
    of a service with no other limit. Nobody is turned away by it: `load` is measured against it.

    Callbacks of its futures and listeners are called from the thread that decodes, so they return at once.
    """

    def __init__(
        self,
        served: ServedPolicies,
        operator: Operator,
        config: BatchingConfig,
        logger: StructuredLogger,
        *,
        waiting_max: int | None = None,
    ) -> None:
        self.served = served
        self.operator = operator
        self.config = config
        self.logger = logger
        self._waiting_max = min(config.queue_max, waiting_max or waiting_room(config.rows_max))
        self._schemas = operator.schemas()
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._background: deque[_Waiting] = deque()
        self._is_closed = False
        self._aloft: dict[tuple[str, bool], _Aloft] = {}
        self._num_running = 0
        self._ticks = 0
        self._predict_s = 0.0
        self._threads = ThreadPoolExecutor(config.operation_threads, thread_name_prefix="operation")
        self._openers = ThreadPoolExecutor(config.operation_threads, thread_name_prefix="open")
        self._frozen_eye = open_flight(served.frozen().policy, operator, self._threads, self._wake)
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: Request,
        *,
        expert: Asked = "adapted",
        listener: Listener | None = None,
        background: bool = False,
        seen: Callable[[Vector, Vector], None] | None = None,
    ) -> Future[Prediction]:
        """Ask for an answer. Raises ServiceFull, with an estimate of when to ask again, or EngineClosed.

        The future raises DeadlineExceeded when the request had not begun by its deadline, RequestDropped when its
        listener was gone (or it was cancelled: before it begins, at once), or what the policy raised. In the background
        a request begins only when no other waits, and gets what time the others leave, an eighth at least. `seen` is
        called as listeners are, with the visual and the text embedding as soon as they are known; it must not raise.
        """
        chat = self.served.frozen().policy.chat
        with self._changed:
            if self._is_closed:
                raise EngineClosed("no more requests are taken: the engine is ending")
            queue = self._background if background else self._waiting
            if len(queue) >= self.config.queue_max:
                raise ServiceFull(
                    f"{len(queue)} requests wait, as many as queue_max allows", max(0.1, self._drain_s(len(queue)))
                )
            opening = self._openers.submit(self._open, request)
            watch = AnswerWatch(chat, listener)
            waiting = _Waiting(request, expert, background, watch, opening, time.monotonic(), seen)
            queue.append(waiting)
        opening.add_done_callback(lambda _: self._wake())
        return waiting.future

    @property
    def num_waiting(self) -> int:
        """Requests that have not begun, without those in the background."""
        return len(self._waiting)

    @property
    def load(self) -> float:
        """How many wait, as a part of those that may: by the queue, or before that by the places of the service."""
        return len(self._waiting) / self._waiting_max

    @property
    def num_running(self) -> int:
        """Requests that are being answered, those in the background among them."""
        return self._num_running

    def close(self) -> None:
        """Take no more requests, finish those that were taken, end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._openers.shutdown()
        self._threads.shutdown()

    def _drain_s(self, num_waiting: int) -> float:
        """Seconds until that many waiting requests will have begun, as requests have been taking."""
        return num_waiting * self._predict_s / self.config.rows_max

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @torch.no_grad()
    def _open(self, request: Request) -> _Opened:
        shown = None
        if request.is_video:
            last = len(request.images) - 1
            shown = tuple(sorted({round(last * place / (_FRAMES_SHOWN - 1)) for place in range(_FRAMES_SHOWN)}))
        prompt = Prompt(
            request.trace_id, "request", request.question, request.images, "", is_video=request.is_video, shown=shown
        )
        frozen = self.served.frozen().policy
        opened = open_prompt(frozen, prompt, self._schemas)
        ids = frozen.tokenizer.encode(request.question, add_special_tokens=False) or [frozen.chat.end_id]
        embedded = frozen.base.get_input_embeddings()(torch.tensor(ids, device=frozen.device))
        return _Opened(opened, _pooled(embedded))

    @torch.no_grad()
    def _run(self) -> None:
        while True:
            with self._changed:
                stale = self._take_stale()
                joining = self._take_joining()
                stepping = self._stepping()
                if not (stale or joining or stepping):
                    if self._is_closed and not self._waiting and not self._background and not self._num_running:
                        return
                    self._changed.wait(_LOOK_S if self._num_running or self._waiting or self._background else None)
                    continue
            for waiting, error in stale:
                if waiting.future.set_running_or_notify_cancel():
                    waiting.future.set_exception(error)
            self._join(joining)
            for aloft in self._stepping():
                self._step(aloft)
            self._ticks += 1
            self._num_running = sum(len(aloft.requests) for aloft in self._aloft.values())

    def _take_stale(self) -> list[tuple[_Waiting, Exception]]:
        """Requests that will not begin: too late, nobody waits for them, or their prompt cannot be made."""
        now, stale = time.monotonic(), list[tuple[_Waiting, Exception]]()
        for queue in (self._waiting, self._background):
            for waiting in list(queue):
                error: BaseException | None = None
                deadline = waiting.request.deadline
                if waiting.watch.is_gone or waiting.future.cancelled():
                    error = RequestDropped(f"{waiting.request.trace_id}: nobody waited for the answer any more")
                elif deadline is not None and now > deadline:
                    error = DeadlineExceeded(
                        f"{waiting.request.trace_id}: waited {now - waiting.submitted:.1f} s, past its deadline"
                    )
                elif waiting.opening.done():
                    error = waiting.opening.exception()
                if error is not None:
                    queue.remove(waiting)
                    stale.append((waiting, error if isinstance(error, Exception) else RuntimeError(str(error))))
        return stale

    def _take_joining(self) -> list[_Waiting]:
        """Requests that begin now, oldest first; one whose large image is still being fitted is overtaken."""
        room = self.config.rows_max - self._num_running
        ready = [waiting for waiting in self._waiting if waiting.opening.done()]
        for waiting in ready:
            waiting.waited += 1
        num_decoding = sum(len(aloft.requests) for aloft in self._aloft.values() if not aloft.is_background)
        if not self._waiting and room > 0:
            joining = [waiting for waiting in self._background if waiting.opening.done()][:room]
            for waiting in joining:
                self._background.remove(waiting)
            return joining
        if not ready or room <= 0:
            return []
        if num_decoding and ready[0].waited <= self.config.window and len(ready) < num_decoding:
            return []
        for waiting in ready[:room]:
            self._waiting.remove(waiting)
        return ready[:room]

    def _stepping(self) -> list[_Aloft]:
        """The flights that write now."""
        aloft = [each for each in self._aloft.values() if each.requests and not each.flight.is_idle]
        answering = any(not each.is_background for each in aloft)
        if answering and self._ticks % _BACKGROUND_EVERY:
            return [each for each in aloft if not each.is_background]
        return aloft

    def _join(self, joining: list[_Waiting]) -> None:
        by_version: dict[tuple[str, bool], tuple[Served, list[_Waiting]]] = {}
        for waiting in joining:
            if waiting.future.set_running_or_notify_cancel():
                served = self.served.frozen() if waiting.asked == "frozen" else self.served.live()
                key = (served.version, waiting.is_background)
                by_version.setdefault(key, (served, []))[1].append(waiting)
        for key, (served, together) in by_version.items():
            self._land_outdated()
            aloft = self._aloft.get(key)
            if aloft is None:
                flight = open_flight(served.policy, self.operator, self._threads, self._wake, self._frozen_eye)
                aloft = self._aloft[key] = _Aloft(served, key[1], flight)
            begun = time.monotonic()
            conversations = {self._conversation(waiting): waiting for waiting in together}
            aloft.requests |= conversations
            try:
                aloft.flight.join(list(conversations))
                for waiting in together:
                    opened, waiting.begun = waiting.opening.result(), begun
                    waiting.visual_embedding = self._visual_embedding(opened, aloft)
                    if waiting.seen is not None:
                        waiting.seen(waiting.visual_embedding, opened.text_embedding)
            except Exception as error:
                self._crash(aloft, error)

    def _conversation(self, waiting: _Waiting) -> Conversation:
        request, opened, config = waiting.request, waiting.opening.result().prompt, self.config
        sampled = RolloutConfig(
            group_size=1,
            turns_max=config.turns_max,
            tokens_max=min(request.tokens_max or config.tokens_max, config.tokens_max),
            temperature=request.temperature,
            top_p=config.top_p,
        )
        # Not by the trace id: a request that is repeated with its seed is answered the same.
        draws = Draws(row_key(RolloutKey(request.seed, 0), "", 0))
        return Conversation(opened, 0, copy_scene(opened.scene), draws, sampled, waiting.watch)

    def _visual_embedding(self, opened: _Opened, aloft: _Aloft) -> Vector:
        """Of what was just seen."""
        images = opened.prompt.images
        if not images:
            return np.zeros_like(opened.text_embedding)
        flight = aloft.flight if aloft.served.sees_as_frozen else self._frozen_eye
        return _pooled(flight.image_features(images))

    def _step(self, aloft: _Aloft) -> None:
        try:
            over = aloft.flight.step()
        except Exception as error:
            self._crash(aloft, error)
            return
        for conversation in over:
            self._finish(aloft, conversation, aloft.requests.pop(conversation))

    def _finish(self, aloft: _Aloft, conversation: Conversation, waiting: _Waiting) -> None:
        if conversation.finish is None:
            dropped = RequestDropped(f"{waiting.request.trace_id}: nobody waited for the answer any more")
            waiting.future.set_exception(dropped)
            return
        assert waiting.visual_embedding is not None
        opened, predict_s = waiting.opening.result(), time.monotonic() - waiting.begun
        self._predict_s = 0.9 * self._predict_s + 0.1 * predict_s if self._predict_s else predict_s
        waiting.future.set_result(
            Prediction(
                trajectory=conversation.trajectory(),
                scene=conversation.scene,
                answer=conversation.answer or "",
                confidence=waiting.watch.confidence,
                entropy=waiting.watch.entropy,
                visual_embedding=waiting.visual_embedding,
                text_embedding=opened.text_embedding,
                policy_version=aloft.served.version,
                prompt_tokens=len(opened.prompt.ids),
                completion_tokens=sum(conversation.written),
                queue_ms=(waiting.begun - waiting.submitted) * 1000,
                predict_ms=predict_s * 1000,
            )
        )

    def _crash(self, aloft: _Aloft, error: Exception) -> None:
        """Requests that were decoded together fail together; those of other versions, and later ones, do not."""
        self.logger.error(
            "batch_failed",
            f"{len(aloft.requests)} requests failed: {whereabouts(error)}",
            policy_version=aloft.served.version,
        )
        self._aloft = {key: each for key, each in self._aloft.items() if each is not aloft}
        for waiting in aloft.requests.values():
            waiting.future.set_exception(error)

    def _land_outdated(self) -> None:
        """Let go of versions that answer nobody any more and that nobody will ask."""
        asked = {self.served.live().version, self.served.frozen().version}
        for key, aloft in list(self._aloft.items()):
            if not aloft.requests and aloft.served.version not in asked:
                del self._aloft[key]


def _pooled(vectors_ND: torch.Tensor) -> Vector:
    """Their mean with unit length, float32[D]."""
    mean_D = vectors_ND.float().mean(dim=0)
    pooled: Vector = torch.nn.functional.normalize(mean_D, dim=0).cpu().numpy()
    return pooled


__all__ = ["Asked", "Batcher", "BatchingConfig", "Prediction"]
