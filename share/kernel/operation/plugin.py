"""The visual operations that Pixelis ships; names and targets only."""

from __future__ import annotations

from share.kernel import Register, hookimpl

HERE = "share.kernel.operation"


@hookimpl
def register_operations(register: Register) -> None:
    register("GET_PROPERTIES", f"{HERE}.get_properties:GetProperties", summary="Size, shape and colour of a region.")
    register("READ_TEXT", f"{HERE}.read_text:ReadText", summary="The text in a box, with words and boxes.")
    register("SEGMENT_OBJECT_AT", f"{HERE}.segment_object_at:SegmentObjectAt", summary="The object under a point.")
    register("TRACK_OBJECT", f"{HERE}.track_object:TrackObject", summary="Where an object of a video goes.")
    register("ZOOM_IN", f"{HERE}.zoom_in:ZoomIn", summary="A box, cut from the native pixels and enlarged.")
