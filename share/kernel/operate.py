"""One operation on one image or video, from the shell."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from share.kernel.config import Choice, layered, validate
from share.kernel.contracts.vision import Scene, Transform
from share.kernel.errors import ConfigError
from share.kernel.files import write_atomically
from share.kernel.media.image import encode_image, load_image
from share.kernel.media.operator import Limits, load_operator
from share.kernel.media.video import load_video
from share.kernel.registry import Registry

PICTURE_TYPES = ("jpg", "png", "webp")


def operate(registry: Registry, arguments: argparse.Namespace) -> int:
    """Run the operation that the command line asks for, print what it returned, write its picture.

    Returns 0 when the operation succeeded, 1 when it refused or failed. Raises ConfigError, MediaError,
    PluginLoadError for what cannot be tried at all.
    """
    output: Path | None = arguments.output
    if output is not None:
        _check_output(output)
    name = arguments.operation
    settings = layered([], {}, arguments.set)
    choice = Choice("operation", name, validate(registry.config_model("operation", name), settings, registry))
    operator = load_operator(registry, [choice], Limits(timeout_s=arguments.timeout_s))
    scene = _scene(arguments.image, arguments.video)

    outcome = operator.run(name, arguments.arguments, scene)
    result = outcome.result
    if arguments.json:
        report = {
            "operation": name,
            "status": outcome.status,
            "error": outcome.error,
            "text": result.text if result else None,
            "data": dict(result.data) if result else None,
            "elapsed_ms": round(outcome.elapsed_ms, 3),
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    elif result is not None:
        print(result.text)
    if result is None:
        if not arguments.json:
            print(f"{outcome.status}: {outcome.error}", file=sys.stderr)
        return 1
    if output is not None:
        if result.image is None:
            raise ConfigError(f"--output: {name} returned no picture for these arguments")
        try:
            write_atomically(output, encode_image(result.image, output.suffix[1:]))
        except OSError as error:
            raise ConfigError(f"--output: {output} cannot be written: {error.strerror}") from error
    return 0


def _check_output(output: Path) -> None:
    """Known before the operation runs: it may take a minute."""
    if output.suffix[1:] not in PICTURE_TYPES:
        raise ConfigError(f"--output: {output} must end in .{', .'.join(PICTURE_TYPES)}")
    if not output.parent.is_dir():
        raise ConfigError(f"--output: {output.parent} is no directory; make it first")
    if output.is_dir():
        raise ConfigError(f"--output: {output} is a directory; name a file")


def _scene(images: list[Path] | None, video: Path | None) -> Scene:
    """The scene that a policy would be shown, in native pixels: every image, or the first frame of the video."""
    if video is not None:
        frames, rate = load_video(video)
        scene = Scene(frames, is_video=True, frames_per_second=rate)
        scene.add_view(frames[0], 0, Transform())
        return scene
    scene = Scene(tuple(load_image(path) for path in images or ()))
    for source, pixels in enumerate(scene.natives):
        scene.add_view(pixels, source, Transform())
    return scene


__all__ = ["operate"]
