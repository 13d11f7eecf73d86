"""The process that workers are forked from: it has imported what is slow to import and started no thread.

Why not multiprocessing's own forkserver: that one lives behind a socket in a directory of /tmp, which stays behind when
the group is killed, starts a resource tracker, and has every worker import the engine's main module.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence

from share.kernel.transport.messages import Born, Channel, Died, Failed, Fork, Packet, readable
from share.kernel.transport.worker import die_with_parent, work

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from share.kernel.transport.nursery import serve; serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])"
)


class Nursery:
    """The engine's end. Must be made by a thread that lives as long as the nursery shall: it dies with that thread.

    `preload` are modules that it imports before it forks; `threads` limits the threads of the libraries below torch.
    """

    def __init__(self, preload: Sequence[str], threads: int) -> None:
        self.channel, theirs = Channel.pair()
        limit = str(threads)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno()), str(os.getpid()), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": limit, "MKL_NUM_THREADS": limit, "OPENBLAS_NUM_THREADS": limit},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, end: socket.socket, slab_fd: int, order: Fork) -> bool:
        """Ask for a worker with that end of a socket pair; the nursery answers with Born. False when it is gone."""
        return self.channel.send(order, (end.fileno(), slab_fd))

    def receive(self) -> Packet | None:
        """Born with a pidfd, Died or Failed; None when there is nothing yet. Raises EOFError when it is gone."""
        return self.channel.receive(wait=False)

    def kill(self) -> None:
        """Kill it; its end is seen by `receive`."""
        self._process.kill()

    def close(self) -> None:
        """Kill it, and with it every worker that is left."""
        self._process.kill()
        self._process.wait()
        self.channel.close()


def serve(fd: int, engine_pid: int, preload: Sequence[str]) -> None:
    """The nursery's main loop: fork when asked, tell who died, end when the engine is gone."""
    die_with_parent(engine_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=fd))
    try:
        for module in preload:
            importlib.import_module(module)
    except Exception:
        channel.send(Failed(traceback.format_exc()[-4000:]))
        sys.exit(1)
    gc.collect()
    gc.freeze()  # a collection in a worker would touch, and so copy, every page that has an object
    children: dict[int, int] = {}  # pidfd: pid
    with contextlib.suppress(EOFError):
        while True:
            ready = readable([channel.fileno(), *children])
            for pidfd in children.keys() & ready:
                pid = children.pop(pidfd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(pidfd)
                channel.send(Died(pid, status))
            if channel.fileno() in ready:
                packet = channel.receive(wait=True)
                assert packet is not None
                pid = _fork(channel, packet)
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid
                channel.send(Born(pid), (pidfd,))


def _fork(channel: Channel, packet: Packet) -> int:
    order = packet.message
    assert isinstance(order, Fork), order
    end_fd, slab_fd = packet.fds
    nursery_pid = os.getpid()
    pid = os.fork()
    if pid:
        os.close(end_fd)
        os.close(slab_fd)
        return pid
    status = 1
    try:
        channel.close()  # kept open, it would hide the nursery's death from the engine
        status = work(socket.socket(fileno=end_fd), slab_fd, order, nursery_pid)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


__all__ = ["Nursery", "serve"]
