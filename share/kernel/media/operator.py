"""The operator: runs operations for a policy that may write anything, with operations that anybody may have written.

It stands between them. What a policy writes wrongly becomes an observation that says what was wrong with which
argument; what an operation does wrongly (raises, returns a wrong type, returns too much, does not return) becomes an
observation that names the operation and the distribution it came from. Neither stops a run.

An operation runs in a thread of its own, because Python can stop waiting for a thread but cannot stop it: one that
exceeds its time limit is abandoned, and an operation that did so `Limits.timeouts` times is not started again.
"""

from __future__ import annotations

import difflib
import inspect
import json
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from share.kernel.contracts.kinds import Operation
from share.kernel.contracts.vision import PIXELS_MAX, OperationResult, Region, Scene, Transform, View
from share.kernel.errors import OperationError, OperationFault, OperationTimeout

if TYPE_CHECKING:
    from share.kernel.config import Choice
    from share.kernel.contracts.vision import Pixels
    from share.kernel.registry import Registry

Status = Literal["ok", "refused", "fault", "timeout"]
Fit = Callable[["Pixels"], "Pixels"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one call, and on what the calls of one rollout may pile up."""

    timeout_s: float = 10.0
    """Seconds that an operation may take; the first call of some includes loading a model."""
    timeouts: int = 3
    """Exceeded time limits after which an operation is switched off; each leaves a thread behind."""
    arguments_length: int = 20_000
    """Characters of the arguments as JSON."""
    text_length: int = 2_000
    """Characters of a result's text or of an error; the rest is cut off and counted."""
    data_length: int = 1_000_000
    """Characters of a result's data as JSON."""
    pixels: int = PIXELS_MAX
    """Pixels of a result's image."""
    views: int = 64
    """Views in a scene."""
    regions: int = 64
    """Regions in a scene."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call. Exactly one of `result` and `error` is set.

    `status` says whose doing an error is: `refused` the policy's (or the image's), `fault` and `timeout` the
    operation's. `view` and `region` are those that the call added to the scene. `elapsed_ms` is wall time.
    """

    status: Status
    result: OperationResult | None
    error: str | None
    view: View | None = None
    region: Region | None = None
    elapsed_ms: float = 0.0


class Operator:
    """Runs the operations that a policy may call, by name, within limits. Safe to call from several threads.

    `origins` says where each operation comes from ("pixelis 0.1.0") for the errors that name it. `fit` resizes an
    image to what the policy is shown; the view that is registered has those pixels, and its transform follows.
    """

    def __init__(
        self,
        operations: Mapping[str, Operation],
        limits: Limits | None = None,
        *,
        origins: Mapping[str, str] | None = None,
        fit: Fit | None = None,
    ) -> None:
        self.operations = dict(operations)
        self.limits = limits or Limits()
        self.origins = dict(origins or {})
        self.fit = fit
        self.timeouts = dict.fromkeys(self.operations, 0)
        self._lock = threading.Lock()

    def schemas(self) -> list[dict[str, Any]]:
        """The tool schemas of all operations, as chat templates and OpenAI's API take them."""
        return [tool_schema(name, operation) for name, operation in self.operations.items()]

    def run(self, name: str, arguments: str | Mapping[str, object] | None, scene: Scene) -> Outcome:
        """Call an operation with arguments (JSON text, or already parsed) and add what it returns to the scene.

        Never raises for what a policy wrote or an operation did.
        """
        started = time.perf_counter()
        status: Status = "ok"
        try:
            parsed = self._arguments(name, arguments)
            result = self._checked(name, self._call(name, parsed, scene), scene)
            result, view, region = self._register(name, result, scene)
            return Outcome("ok", result, None, view, region, (time.perf_counter() - started) * 1000)
        except OperationTimeout as error:
            status, message = "timeout", str(error)
        except OperationFault as error:
            status, message = "fault", str(error)
        except OperationError as error:
            status, message = "refused", str(error)
        message = _cut(" ".join(message.split()), self.limits.text_length)
        return Outcome(status, None, message, elapsed_ms=(time.perf_counter() - started) * 1000)

    def _arguments(self, name: str, arguments: str | Mapping[str, object] | None) -> BaseModel:
        if not isinstance(name, str) or name not in self.operations:
            near = difflib.get_close_matches(str(name).upper(), self.operations, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise OperationError(
                f"no operation {_cut(repr(name), 100)}; {meant}there are {', '.join(self.operations) or 'none'}"
            )
        if self.timeouts[name] >= self.limits.timeouts:
            raise OperationTimeout(
                f"{self._named(name)} is switched off: "
                f"it exceeded {self.limits.timeout_s:g} s {self.timeouts[name]} times"
            )
        if not isinstance(arguments, Mapping):
            arguments = parse_arguments(arguments, self.limits.arguments_length)
        try:
            return self.operations[name].Arguments.model_validate(dict(arguments))
        except ValidationError as error:
            raise OperationError(_mistakes(error)) from error
        except OperationError:
            raise
        except Exception as error:  # validators are the plugin's code as well
            raise self._fault(name, f"its Arguments raised {_raised(error)}") from error

    def _call(self, name: str, arguments: BaseModel, scene: Scene) -> object:
        outcome: list[object] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                outcome.append(self.operations[name].run(scene, arguments))
            except BaseException as error:  # a SystemExit must not end the thread in silence
                failure.append(error)

        worker = threading.Thread(target=work, name=f"operation {name}", daemon=True)
        worker.start()
        worker.join(self.limits.timeout_s)
        if worker.is_alive():
            with self._lock:
                self.timeouts[name] += 1
            raise OperationTimeout(f"{self._named(name)} did not return within {self.limits.timeout_s:g} s")
        if not failure:
            return outcome[0]
        error = failure[0]
        if isinstance(error, OperationError) and not isinstance(error, OperationFault | OperationTimeout):
            raise error
        raise self._fault(name, f"raised {_raised(error)}") from error

    def _checked(self, name: str, result: object, scene: Scene) -> OperationResult:
        """The result, if it keeps the contract. Raises OperationFault."""
        if not isinstance(result, OperationResult):
            raise self._fault(name, f"returned {type(result).__name__}, not OperationResult")
        wrong = _wrong_text_or_data(result, self.limits) or _wrong_image(result, scene, self.limits)
        wrong = wrong or (_wrong_region(result.region, scene) if result.region is not None else None)
        if wrong:
            raise self._fault(name, wrong)
        return replace(result, text=_cut(result.text, self.limits.text_length))

    def _register(
        self, name: str, result: OperationResult, scene: Scene
    ) -> tuple[OperationResult, View | None, Region | None]:
        if result.image is not None and len(scene.views) >= self.limits.views:
            raise OperationError(f"no more than {self.limits.views} images are kept: answer with what was seen")
        if result.region is not None and len(scene.regions) >= self.limits.regions:
            raise OperationError(f"no more than {self.limits.regions} regions are kept: answer with what was found")
        view = None
        if result.image is not None:
            source, transform = result.source, result.transform
            if transform is None:
                source, transform = scene.add_picture(result.image), Transform()
            pixels = self.fit(result.image) if self.fit else result.image
            transform = refitted(transform, result.image, pixels)
            result = replace(result, image=pixels, source=source, transform=transform)
            view = scene.add_view(pixels, source, transform)
        return result, view, scene.add_region(result.region) if result.region is not None else None

    def _named(self, name: str) -> str:
        return f"{name} ({self.origins[name]})" if name in self.origins else name

    def _fault(self, name: str, what: str) -> OperationFault:
        return OperationFault(f"{self._named(name)} is faulty: {what}")


def load_operator(
    registry: Registry, choices: Sequence[Choice], limits: Limits | None = None, *, fit: Fit | None = None
) -> Operator:
    """The operator over the chosen operations, each built and named with its distribution.

    Raises UnknownPlugin, DuplicatePlugin, PluginLoadError for an operation that cannot be built.
    """
    operations = {choice.name: registry.build(choice) for choice in choices}
    plugins = {name: registry.origin("operation", name).plugin for name in operations}
    origins = {name: f"{plugin.distribution} {plugin.version}" for name, plugin in plugins.items()}
    return Operator(operations, limits, origins=origins, fit=fit)


def tool_schema(name: str, operation: Operation) -> dict[str, Any]:
    """One operation as a function tool: the class's docstring and the JSON schema of its arguments."""
    parameters = _plain(operation.Arguments.model_json_schema())
    parameters.pop("description", None)
    parameters.pop("additionalProperties", None)
    parameters.setdefault("properties", {})
    description = " ".join((inspect.getdoc(type(operation)) or "").split())
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def parse_arguments(text: str | None, length_max: int) -> Mapping[str, object]:
    """The JSON object in `text`; nothing at all is an empty one. Raises OperationError."""
    if text is None or not text.strip():
        return {}
    if len(text) > length_max:
        raise OperationError(f"arguments: {len(text):,} characters; at most {length_max:,} are read")
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise OperationError(f"arguments: not JSON: {error.msg} at character {error.pos}") from error
    except (ValueError, RecursionError) as error:  # numerals of thousands of digits; nesting of thousands of levels
        raise OperationError(f"arguments: not JSON that can be read: {error}") from error
    if not isinstance(parsed, dict):
        raise OperationError(f"arguments: must be a JSON object, not {type(parsed).__name__}")
    return parsed


def refitted(transform: Transform, before: Pixels, after: Pixels) -> Transform:
    """The transform of a view whose pixels were resized from `before` to `after`."""
    if before.shape == after.shape:
        return transform
    return replace(
        transform,
        scale_x=transform.scale_x * before.shape[1] / after.shape[1],
        scale_y=transform.scale_y * before.shape[0] / after.shape[0],
    )


def _wrong_text_or_data(result: OperationResult, limits: Limits) -> str | None:
    if not isinstance(result.text, str):
        return f"its text is a {type(result.text).__name__}"
    if not isinstance(result.data, Mapping):
        return f"its data is a {type(result.data).__name__}"
    try:
        length = len(json.dumps(dict(result.data), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        return f"its data is not JSON: {error}"
    return (
        f"its data takes {length:,} characters; at most {limits.data_length:,}" if length > limits.data_length else None
    )


def _wrong_image(result: OperationResult, scene: Scene, limits: Limits) -> str | None:
    image, transform = result.image, result.transform
    if image is None:
        return None
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        shape = f"{image.dtype}{list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        return f"its image is {shape}, not uint8[height, width, 3]"
    height, width = image.shape[:2]
    if not 0 < height * width <= limits.pixels:
        return f"its image has {height * width:,} pixels; 1 to {limits.pixels:,} are accepted"
    if transform is None:
        return None
    if not isinstance(transform, Transform):
        return f"its transform is a {type(transform).__name__}"
    numbers = (transform.scale_x, transform.scale_y, transform.offset_x, transform.offset_y)
    if not all(isinstance(value, int | float) and np.isfinite(value) for value in numbers) or min(numbers[:2]) <= 0:
        return f"its transform is {transform}"
    if not isinstance(result.source, int) or not 0 <= result.source < len(scene.natives) + len(scene.pictures):
        return f"its source is {result.source!r}; the scene has {len(scene.natives) + len(scene.pictures)}"
    return None


def _wrong_region(region: object, scene: Scene) -> str | None:
    if not isinstance(region, Region):
        return f"its region is a {type(region).__name__}"
    if not isinstance(region.source, int) or not 0 <= region.source < len(scene.natives) + len(scene.pictures):
        return f"its region's source is {region.source!r}"
    if region.name != scene.next_region_name():
        return f"its region is named {region.name!r}, not {scene.next_region_name()!r}"
    if tuple(region.shape) != scene.native(region.source).shape[:2]:
        return f"its region has the shape {region.shape!r}, not that of the native image"
    try:
        runs = np.asarray(region.counts, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return "its region's counts are no integers"
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != region.shape[0] * region.shape[1]:
        return "its region's counts do not fill the native image"
    if len(region.box) != 4 or not np.isfinite(region.box).all():
        return f"its region's box is {region.box!r}"
    if int(runs[1::2].sum()) != region.area:
        return f"its region's area is {region.area!r}, its counts hold {int(runs[1::2].sum())}"
    return None


def _mistakes(error: ValidationError) -> str:
    """Pydantic's findings in one line, each as `argument: what is wrong`; the first three."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [
        f"{'.'.join(str(part) for part in mistake['loc']) or 'arguments'}: {mistake['msg']}" for mistake in found[:3]
    ]
    return "; ".join(lines) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _raised(error: BaseException) -> str:
    """Type and message of an exception, with the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{where}" if str(error) else f"{type(error).__name__}{where}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 40]} … ({len(text) - length + 40:,} characters cut)"


def _plain(schema: Any) -> Any:
    """What a policy needs of pydantic's schema: no titles, and an optional argument as an argument of its type."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: {name: _plain(item) for name, item in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    alternatives = plain.get("anyOf")
    if isinstance(alternatives, list) and len(alternatives) == 2 and {"type": "null"} in alternatives:
        del plain["anyOf"]
        plain = next(item for item in alternatives if item != {"type": "null"}) | plain
    return plain


__all__ = [
    "Fit",
    "Limits",
    "Operator",
    "Outcome",
    "Status",
    "load_operator",
    "parse_arguments",
    "refitted",
    "tool_schema",
]
