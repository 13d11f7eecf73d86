"""The task sources that Pixelis ships; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl

HERE = "share.kernel.task"


@hookimpl
def register_tasks(register: Register) -> None:
    register("compare_objects", f"{HERE}.compare_objects:CompareObjects", summary="Which object is larger, darker, …")
    register("count", f"{HERE}.count:Count", summary="How many objects of a colour and shape there are.")
    register("follow_object", f"{HERE}.follow_object:FollowObject", summary="Where one of many equal objects ends.")
    register("hf_dataset", f"{HERE}.hf_dataset:HfDataset", summary="A Hugging Face dataset saved on disk.")
    register("jsonl", f"{HERE}.jsonl:Jsonl", summary="Your own images and questions, one JSON object a line.")
    register("read_text", f"{HERE}.read_text:ReadText", summary="What is written on a small sign in a large scene.")
    register("zoom_digits", f"{HERE}.zoom_digits:ZoomDigits", summary="Digits too small to read without ZOOM_IN.")
