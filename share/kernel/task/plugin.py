"""The task sources that Pixelis ships; names and targets only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from share.kernel import hookimpl

if TYPE_CHECKING:
    from share.kernel.registry import Register


@hookimpl
def register_tasks(register: Register) -> None:
    register(
        "compare_objects",
        "share.kernel.task.compare_objects:CompareObjects",
        summary="Which object is larger, darker or redder.",
    )
    register(
        "count",
        "share.kernel.task.count:Count",
        summary="How many objects of a colour or shape a scene holds.",
    )
    register(
        "follow_object",
        "share.kernel.task.follow_object:FollowObject",
        summary="Where one of several identical objects of a video ends.",
    )
    register(
        "hf_dataset",
        "share.kernel.task.hf_dataset:HfDataset",
        summary="A Hugging Face dataset saved on disk.",
    )
    register(
        "jsonl",
        "share.kernel.task.jsonl:Jsonl",
        summary="Your own images and questions, one JSON object a line.",
    )
    register(
        "read_text",
        "share.kernel.task.read_text:ReadText",
        summary="Words and numbers written small in a large photograph.",
    )
    register(
        "zoom_digits",
        "share.kernel.task.zoom_digits:ZoomDigits",
        summary="Handwritten digits too small to read without ZOOM_IN.",
    )
