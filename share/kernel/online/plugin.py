"""The online backend that ships with Pixelis; name and target only."""

from __future__ import annotations

from share.kernel import Register, hookimpl


@hookimpl
def register_onlines(register: Register) -> None:
    register("pixelis", "share.kernel.online.service:serve", summary="Serve over HTTP, remember, and learn meanwhile.")
