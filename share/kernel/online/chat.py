"""`POST /v1/chat/completions`: a question in, an answer out, at once or as it comes."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from share.kernel.contracts.serving import Reply
from share.kernel.contracts.serving import Request as Question
from share.kernel.contracts.trajectory import Action
from share.kernel.errors import EngineClosed
from share.kernel.events import StructuredLogger
from share.kernel.online.access import Guarded, allow, key_of, place_of
from share.kernel.online.door import Door, door_of
from share.kernel.online.refusals import ErrorReply, Refusal, reply_of
from share.kernel.online.wire import (
    ID_PREFIX,
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    OperationUsed,
    Step,
    Told,
    Usage,
)
from share.kernel.serving.admission import decode_image

PATH = "/v1/chat/completions"

CLIENT_GONE = 499
"""The status, nginx's, of an answer that nobody waited for; it is only seen in metrics."""

router = APIRouter(route_class=Guarded, tags=["answers"])

_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (401, 403, 404, 413, 415, 422, 429, 503)
}


@router.post(PATH, response_model=ChatCompletion, responses=_REFUSALS)
@allow("client", "admin", has_places=True)
async def complete(asked: ChatRequest, request: Request) -> Response:
    """Answer a question about images. With `stream`, as server-sent events that end with `[DONE]`."""
    door = door_of(request)
    question = await run_in_threadpool(_admitted, door, asked, key_of(request).id)
    follower = _Follower(asyncio.get_running_loop())
    future = door.engine.submit(question, follower)
    place_of(request).until(future)
    door.metrics.begun(future)
    future.add_done_callback(follower.ended)
    gone = asyncio.ensure_future(_left(request))
    try:
        event: str | Action | None = ""
        while event is not None:
            coming = asyncio.ensure_future(follower.events.get())
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                follower.is_gone = True
                return Response(status_code=CLIENT_GONE)
            event = coming.result()
            if asked.stream and event is not None:
                events = _events(asked, question.trace_id, follower, future, event, door.logger)
                return StreamingResponse(events, media_type="text/event-stream", headers=_UNBUFFERED)
        reply = future.result()  # raises what became of it
        if asked.stream:
            events = _events(asked, question.trace_id, follower, future, None, door.logger)
            return StreamingResponse(events, media_type="text/event-stream", headers=_UNBUFFERED)
        return JSONResponse(_completion(reply).model_dump(mode="json"))
    finally:
        gone.cancel()


def _admitted(door: Door, asked: ChatRequest, client: str) -> Question:
    """The question with its images decoded. Raises a Refusal or MediaError."""
    limits, extra = door.config.admission, asked.pixelis
    if door.closing.is_set():
        raise EngineClosed("the service is stopping; ask again in a moment")
    if len(asked.question) > limits.question_characters_max:
        what = f"the question has {len(asked.question):,} characters, more than {limits.question_characters_max:,}"
        raise Refusal(422, "too_long", what, "messages")
    urls = asked.image_urls
    if len(urls) > limits.images_max:
        raise Refusal(422, "too_many_images", f"{len(urls)} images are more than {limits.images_max}", "messages")
    patience_s = min(extra.deadline_s or door.config.deadline_s, door.config.deadline_s)
    deadline = time.monotonic() + patience_s
    images = tuple(decode_image(url, name, pixels_max=limits.pixels_max) for name, url in urls)
    return Question(
        trace_id=uuid.uuid4().hex,
        question=asked.question,
        images=images,
        client=client,
        subject=asked.subject,
        read_only=extra.read_only or door.config.read_only,
        answer_type=extra.answer_type,
        is_video=extra.is_video,
        deadline=deadline,
        temperature=asked.temperature or 0.0,
        tokens_max=asked.tokens_max,
        seed=asked.seed or 0,
    )


class _Follower:
    """Listens in the engine's thread and tells the loop. The last event is None: the future is done."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events: asyncio.Queue[str | Action | None] = asyncio.Queue()
        self.is_gone = False

    def wrote(self, text: str, /) -> None:
        self._tell(text)

    def acted(self, action: Action, /) -> None:
        self._tell(action)

    def ended(self, future: Future[Reply]) -> None:
        if not future.cancelled():
            future.exception()  # looked at, also when nobody waits any more
        self._tell(None)

    def _tell(self, event: str | Action | None) -> None:
        if not self.is_gone and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)


async def _left(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    asked: ChatRequest,
    trace_id: str,
    follower: _Follower,
    future: Future[Reply],
    event: str | Action | None,
    logger: StructuredLogger,
) -> AsyncIterator[str]:
    """The chunks of a stream, from its first event on; the last is an error if it comes to one. What ends the iterator
    early frees the slot of the rollout."""
    has_usage = asked.stream_options is not None and asked.stream_options.include_usage
    sse = partial(_sse, has_usage=has_usage)
    chunk = partial(ChatChunk, id=_id_of(trace_id), created=int(time.time()))
    try:
        yield sse(chunk(choices=[ChunkChoice(delta=Delta(role="assistant", content=""))]))
        while event is not None:
            if isinstance(event, Action):
                if event.kind == "operation":
                    yield sse(chunk(choices=[], pixelis=Step(operation=OperationUsed.of(event))))
            else:
                yield sse(chunk(choices=[ChunkChoice(delta=Delta(reasoning_content=event))]))
            event = await follower.events.get()
        try:
            reply = future.result()
        except Exception as error:  # the stream is the boundary: its status has gone out already
            _, told = reply_of(error, logger)
            yield f"data: {told.model_dump_json()}\n\n"
            return
        whole = _completion(reply)
        named = partial(chunk, system_fingerprint=reply.policy_version)
        yield sse(named(choices=[ChunkChoice(delta=Delta(content=reply.answer))]))
        end = ChunkChoice(delta=Delta(), finish_reason=whole.choices[0].finish_reason)
        yield sse(named(choices=[end], pixelis=whole.pixelis))
        if has_usage:
            yield sse(named(choices=[], usage=whole.usage))
        yield "data: [DONE]\n\n"
    finally:
        follower.is_gone = True


def _sse(chunk: ChatChunk, *, has_usage: bool) -> str:
    """One event. The delta leaves out what it does not change, the chunk what it has not; but where the usage was asked
    for, every chunk has it, null in all but the last."""
    dumped = chunk.model_dump(mode="json", exclude={"choices"})
    dumped["choices"] = [
        {**choice.model_dump(mode="json"), "delta": choice.delta.model_dump(mode="json", exclude_none=True)}
        for choice in chunk.choices
    ]
    for name in ("pixelis", "usage", "system_fingerprint"):
        if dumped[name] is None and not (has_usage and name == "usage"):
            del dumped[name]
    return f"data: {json.dumps(dumped, ensure_ascii=False)}\n\n"


def _completion(reply: Reply) -> ChatCompletion:
    finish = reply.trajectory.finish
    return ChatCompletion(
        id=_id_of(reply.trace_id),
        created=int(time.time()),
        system_fingerprint=reply.policy_version,
        choices=[
            Choice(
                message=AnswerMessage(content=reply.answer),
                finish_reason="length" if finish in ("tokens_max", "turns_max") else "stop",
            )
        ],
        usage=Usage(
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            total_tokens=reply.prompt_tokens + reply.completion_tokens,
        ),
        pixelis=Told(
            trace_id=reply.trace_id,
            confidence=reply.confidence,
            path=reply.path,
            expert=reply.expert,
            policy_version=reply.policy_version,
            finish=finish,
            operations=[OperationUsed.of(action) for action in reply.trajectory.operations],
            elapsed_ms={step: round(ms, 3) for step, ms in reply.elapsed_ms.items()},
        ),
    )


def _id_of(trace_id: str) -> str:
    return f"{ID_PREFIX}{trace_id}"


__all__ = ["CLIENT_GONE", "PATH", "complete", "router"]
