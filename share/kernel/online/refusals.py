"""What a caller is told when a call did not go well: OpenAI's error shape, one status for each of our errors."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from share.kernel.errors import (
    AuditUnavailable,
    BufferProblem,
    DeadlineExceeded,
    EngineClosed,
    ImageTokenMismatch,
    KeyProblem,
    KeyRefused,
    MediaError,
    PixelisError,
    PolicyError,
    RequestDropped,
    ReviewConflict,
    ReviewProblem,
    ServiceFull,
    TooManyRequests,
    UnknownKey,
    UnknownReview,
    UnknownTrace,
    VersionConflict,
)
from share.kernel.events import StructuredLogger
from share.kernel.online.door import door_of
from share.kernel.online.wire import HALF_A_CHARACTER

RETRY_AFTER_S = 1
"""What is said where nothing better is known."""

_STATUSES: dict[type[PixelisError], tuple[int, str]] = {
    KeyRefused: (401, "invalid_api_key"),
    UnknownKey: (404, "unknown_key"),
    KeyProblem: (409, "key"),
    BufferProblem: (503, "buffer"),
    UnknownTrace: (404, "unknown_trace"),
    UnknownReview: (404, "unknown_review"),
    ReviewConflict: (409, "review_conflict"),
    ReviewProblem: (503, "review_queue"),
    VersionConflict: (409, "version_conflict"),
    MediaError: (422, "image"),
    PolicyError: (422, "question"),
    ImageTokenMismatch: (500, "internal_error"),  # ours, though it is a PolicyError
    TooManyRequests: (429, "rate_limit_exceeded"),
    ServiceFull: (429, "queue_full"),
    DeadlineExceeded: (429, "deadline_exceeded"),
    AuditUnavailable: (503, "audit_log"),
    RequestDropped: (503, "dropped"),
    EngineClosed: (503, "stopping"),
}
_INTERNAL = "something went wrong here; the log of the service says what"
_SHOULD = re.compile(r"^(Input|List|String|Value) should ")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(HTTPException):
    """A call that is turned away. `code` is for programs, `param` names the field that is wrong."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(status, message)
        self.code = code
        self.param = param


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """What every call that did not go well returns."""

    error: ErrorBody


def told(status: int, message: str, code: str | None, param: str | None = None) -> ErrorReply:
    """The error of a status."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    shown = message.encode("utf-8", "replace").decode()  # a key of a caller's JSON may be no text at all
    return ErrorReply(error=ErrorBody(message=shown, type=kind, param=param, code=code))


def status_of(error: PixelisError) -> tuple[int, str]:
    """(status, code) of one of our errors: of the nearest class that has one, 500 for the others."""
    for kind in type(error).__mro__:
        if kind in _STATUSES:
            return _STATUSES[kind]
    return 500, "internal_error"


def is_as_it_should_be(error: PixelisError) -> bool:
    """Whether nothing is wrong with a service that says so: who stops it knows that it turns callers away."""
    return isinstance(error, EngineClosed)


def answer_errors(app: FastAPI) -> None:
    """Let the app tell every error so."""

    @app.exception_handler(PixelisError)
    async def known(request: Request, error: PixelisError) -> JSONResponse:
        return _response(*reply_of(error, door_of(request).logger), getattr(error, "retry_after_s", RETRY_AFTER_S))

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        code = (
            error.code if isinstance(error, Refusal) else HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        )
        param = error.param if isinstance(error, Refusal) else None
        if error.status_code == 400:  # FastAPI's, for a body that is no text; broken JSON in it is 422 too
            return _response(422, told(422, "the body is not JSON in UTF-8, or nested too deeply", "invalid_value"))
        message = str(error.detail)
        if not isinstance(error, Refusal) and error.status_code in (404, 405):
            takes = (error.headers or {}).get("Allow")
            problem = f"it takes {takes}, not {request.method[:20]}" if takes else "there is no such route"
            remedy = "the interface is below /v1, GET /openapi.json lists all of it"
            message = f"{request.url.path[:80]}: {problem}; {remedy}"
        response = _response(error.status_code, told(error.status_code, message, code, param))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        param, message = mistake_of(error)
        first = error.errors()[0]
        if param == "model" and first["type"] == "literal_error" and isinstance(first["input"], str):
            return _response(404, told(404, f"model: {message}", "model_not_found", "model"))
        return _response(422, told(422, f"{param}: {message}" if param else message, "invalid_value", _plain(param)))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return _response(*reply_of(error, door_of(request).logger))


def reply_of(error: Exception, logger: StructuredLogger) -> tuple[int, ErrorReply]:
    """(status, what a caller is told) of whatever became of a call, in a stream as without; what is wrong here is
    logged. Nothing of this machine's files is told, and nothing that a user sent is logged."""
    if not isinstance(error, PixelisError):
        where = "".join(traceback.format_tb(error.__traceback__))  # without its message: it may hold what a user sent
        logger.error("http_error", type(error).__name__, status=500, traceback=where)
        return 500, told(500, _INTERNAL, "internal_error")
    status, code = status_of(error)
    if status >= 500:
        tell = logger.info if is_as_it_should_be(error) else logger.error
        tell("http_error", f"{type(error).__name__}: {error}", status=status)
    message, param = str(error), None
    if status == 500 or isinstance(error, AuditUnavailable | BufferProblem | ReviewProblem):
        message = _INTERNAL
    elif isinstance(error, PolicyError):  # its message names files of this machine
        logger.warn("question_refused", str(error))
        message = "the policy cannot be asked this: a question must not contain its control tokens"
    elif isinstance(error, MediaError) and message.startswith("messages."):
        param = message.partition(": ")[0]
    return status, told(status, message, code, param)


def mistake_of(error: RequestValidationError) -> tuple[str, str]:
    """(path in the body, what is wrong there) of the first mistake, in words that say what to do.

    Of a value that may be one of several things pydantic tells what is wrong with it as each of them: the mistake that
    lies deepest in it is that of the one that it was meant to be.
    """
    found = [(_path_of(each["loc"], error.body), each) for each in error.errors()]
    first = found[0][0]
    if first:
        found = [(path, each) for path, each in found if path[: len(first)] == first]
    deepest = max((path for path, _ in found), key=len)
    there = [each for path, each in found if path == deepest]
    there = [each for each in there if not each["type"].endswith("_type")] or there
    words = dict.fromkeys(_in_words(each, is_body=not deepest) for each in there)
    return ".".join(map(str, deepest)), " or ".join(words)


def _path_of(place: tuple[int | str, ...], body: object) -> tuple[int | str, ...]:
    """Where a mistake is, without the names of the kinds of value that pydantic tried on the way."""
    if place[0] != "body":
        return place[1:]
    path: list[int | str] = []
    for number, key in enumerate(place[1:], start=2):
        inside = isinstance(body, Mapping) and key in body
        inside = inside or (isinstance(body, list) and isinstance(key, int) and key < len(body))
        if inside:
            body = body[key]  # type: ignore[index]
        if inside or (isinstance(body, Mapping) and number == len(place)):  # the last may be what is missing
            path.append(key)
    return tuple(path)


def _in_words(mistake: Mapping[str, Any], *, is_body: bool) -> str:
    """What is wrong, and what would be right."""
    kind, message = str(mistake["type"]), str(mistake["msg"])
    if kind == "json_invalid":
        return f"the body is not JSON: {mistake['ctx']['error']}, at character {mistake['loc'][-1]}"
    if kind == "missing":
        return "the body is empty; send a JSON object" if is_body else "is needed"
    if kind == "extra_forbidden":
        return "is not supported by this service; leave it out"
    if kind == "string_unicode":
        return HALF_A_CHARACTER
    if kind == "union_tag_invalid":
        return f"is of type {str(mistake['ctx']['tag'])[:40]!r}; its type must be {mistake['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return "needs a type"
    if kind in ("model_attributes_type", "model_type", "dict_type"):
        return "the body is no JSON object; send one" if is_body else "must be a JSON object"
    message = message.removeprefix("Value error, ").replace(" after validation", "")
    return _SHOULD.sub("must ", message, count=1)


def refused_with(error: PixelisError) -> JSONResponse:
    """What a caller is told of an error."""
    status, code = status_of(error)
    return _response(status, told(status, str(error), code), getattr(error, "retry_after_s", RETRY_AFTER_S))


def _response(status: int, body: ErrorReply, retry_after_s: float = RETRY_AFTER_S) -> JSONResponse:
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body.model_dump(), status, headers)


def _plain(text: str) -> str | None:
    return text.encode("utf-8", "replace").decode() or None


__all__ = [
    "RETRY_AFTER_S",
    "ErrorBody",
    "ErrorReply",
    "Refusal",
    "answer_errors",
    "is_as_it_should_be",
    "mistake_of",
    "refused_with",
    "reply_of",
    "status_of",
    "told",
]
