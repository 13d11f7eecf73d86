"""Which items of a user's own data are held out: decided by hashing what must not be on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from share.kernel.errors import TaskError


def held_out(keys: Sequence[str], fraction: float, source: str) -> list[bool]:
    """For each item, whether it is held out. Items of one key (the images they show) are always on the same side.

    A key is held out when its hash lies below `fraction`, so what is added to the data later moves nothing. Where a
    side would be empty, the key nearest to the border is moved there. A `fraction` of 0 holds nothing out. Raises
    TaskError beginning with `source` when there is only one key and something is to be held out.
    """
    places = {key: int.from_bytes(sha256(key.encode()).digest()[:8]) / 2**64 for key in keys}
    chosen = {key for key, place in places.items() if place < fraction}
    if fraction > 0:
        if len(places) < 2:
            raise TaskError(
                f"{source}: everything shows the same images, so no part can be held out; "
                "add what shows others, give a separate held-out set, or set held_out_fraction=0"
            )
        ordered = sorted(places, key=places.__getitem__)
        if not chosen:
            chosen.add(ordered[0])
        elif len(chosen) == len(places):
            chosen.remove(ordered[-1])
    return [key in chosen for key in keys]


__all__ = ["held_out"]
