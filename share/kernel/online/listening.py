"""The socket and the server behind it: uvicorn in a thread of its own, so that signals stay with the command line."""

from __future__ import annotations

import errno
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from share.kernel.errors import ConfigError, PixelisError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG = 512

IDLE_S = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs (5 s those of httpx), or a call would now
and then be sent into one that is just being closed."""

_NO_ADDRESS = "host: {} is no address of this machine; set host=…, 127.0.0.1 for this machine alone, 0.0.0.0 for all"


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; a free port when `port` is 0. Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # a name that is not known, or cannot be one; no IPv6
        raise ConfigError(_NO_ADDRESS.format(host)) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port: {port} is in use on {host}; set port=…, or port=0 for a free one") from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port: {port} is not for this user to listen on; set port=… to 1024 or above") from error
        raise ConfigError(_NO_ADDRESS.format(host)) from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Where it can be reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Listening:
    """Serves an app on a socket until it is closed. Raises PixelisError when the server does not start."""

    def __init__(self, app: ASGIApp, listening: socket.socket, *, drain_s: int) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=drain_s,
        )
        self._server = uvicorn.Server(config)
        self._socket = listening
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="http", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise PixelisError(f"the server on {url_of(listening)} did not start; its log says why")
            self._thread.join(0.01)

    def close(self) -> None:
        """Accept nothing more, finish what is being answered (`drain_s` at most), and end."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


__all__ = ["BACKLOG", "IDLE_S", "Listening", "bound", "url_of"]
