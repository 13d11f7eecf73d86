"""A disk whose every flush takes longer: fdatasync, fsync and msync of a program and of its children are held up.

Many virtual disks answer a flush from a cache, in 0.1 ms. A solid-state disk without a capacitor takes 1 to 5 ms, and
then another thing decides who is fast: how many flushes are needed. This shows it, for all stores alike; what a real
disk would add, such as a second flush for a file that grew, it does not show.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MICROSECONDS = "PIXELIS_BENCHMARK_FLUSH_US"

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static void hold(void) { const char *us = getenv("PIXELIS_BENCHMARK_FLUSH_US"); if (us) usleep(atoi(us)); }
int fdatasync(int fd) { hold(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { hold(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int msync(void *address, size_t size, int flags) {
    if (flags & MS_SYNC) hold();
    return ((int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "msync"))(address, size, flags);
}
"""


def is_on() -> bool:
    return MICROSECONDS in os.environ


def run_again(flush_ms: float, command: Sequence[str]) -> int:
    """Run `command` with each flush `flush_ms` longer; returns its exit code. Needs a C compiler, `cc`."""
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "slow_flushes.so"
        compiler = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(library), "-ldl"]
        try:
            subprocess.run(compiler, input=SOURCE.encode(), check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"--flush-ms: needs a C compiler named cc ({error})") from error
        environment = {**os.environ, "LD_PRELOAD": str(library), MICROSECONDS: str(round(1000 * flush_ms))}
        return subprocess.run([sys.executable, "-m", *command], env=environment, check=False).returncode


__all__ = ["MICROSECONDS", "is_on", "run_again"]
