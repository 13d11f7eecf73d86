"""What help and listings cost with 50 plugins installed, beside Python's own start.

    python -m benchmarks.startup

Prints the CPU time (user and system, of the whole child process) of each command and of `python -c pass`, alternated,
the median of 15, and their difference. Of the 50 distributions 20 work and 30 are broken, in 15 ways. Exit code 1 when
a difference exceeds the bar of 150 ms, a working plugin is not listed, or a broken one is not named with its reason.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kernel.wheels import BROKEN, install, operation_plugin

BAR_MS = 150.0
ROUNDS = 15
PLUGINS = 50
COMMANDS = (
    "-m train.cli --help",
    "-m share.kernel --help",
    "-m share.kernel plugins",
    "-m share.kernel operations",
    "-m share.kernel backends",
)


def main() -> int:
    with tempfile.TemporaryDirectory() as site:
        num_broken = install_plugins(Path(site))
        environment = {**os.environ, "PYTHONPATH": site}
        environment.pop("PIXELIS_PLUGINS", None)
        missed = check_listing(environment, num_broken)
        for command in ("-c pass", *COMMANDS):
            cpu_ms(command, environment)  # compiles what is imported, and warms the file cache
        measured: dict[str, list[float]] = {command: [] for command in ("-c pass", *COMMANDS)}
        for _ in range(ROUNDS):
            for command, times in measured.items():
                times.append(cpu_ms(command, environment))
    baseline = statistics.median(measured.pop("-c pass"))
    print(f"{PLUGINS} plugins, {num_broken} of them broken in {len(BROKEN) + 2} ways; CPU ms, median of {ROUNDS}")
    print(f"{'python -c pass':36} {baseline:7.1f}")
    slow = False
    for command, times in measured.items():
        median = statistics.median(times)
        slow |= median - baseline > BAR_MS
        print(
            f"{'python ' + command:36} {median:7.1f}   beyond the baseline {median - baseline:7.1f}   bar {BAR_MS:.0f}"
        )
    print("\n".join(missed) or "every working plugin is listed, every broken one is named with its reason")
    return int(slow or bool(missed))


def install_plugins(site: Path) -> int:
    """Install the distributions below `site`; returns how many of them are broken."""
    num_broken = 0
    for copy in range(2):
        for number, (text, _) in enumerate(BROKEN.values()):
            module = f"broken_{copy}_{number}"
            install(site, module.replace("_", "-"), {f"{module}.py": text}, {"operation": module})
        install(site, f"absent-{copy}", {}, {"operation": f"absent_{copy}.plugin"})
        info = install(site, f"damaged-{copy}", {}, {"operation": "damaged"})
        (info / "METADATA").write_bytes(b"\xff\xfe\x00")
        num_broken += len(BROKEN) + 2
    for number in range(PLUGINS - num_broken):
        module = f"good_{number}"
        files = {f"{module}/plugin.py": operation_plugin(f"GOOD_{number}", f"{module}.heavy:Operation")}
        files[f"{module}/heavy.py"] = "import torch, cv2, faiss, transformers\n"
        install(site, module.replace("_", "-"), files, {"operation": f"{module}.plugin"})
    return num_broken


def check_listing(environment: dict[str, str], num_broken: int) -> list[str]:
    """What `plugins` does not say although it should."""
    command = [sys.executable, "-m", "share.kernel", "plugins", "--json"]
    rows = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)["plugins"]
    listed = {row["name"] for row in rows if row["state"] == "ok"}
    missed = [f"GOOD_{n} is not listed" for n in range(PLUGINS - num_broken) if f"GOOD_{n}" not in listed]
    broken = [row for row in rows if row["state"] == "broken"]
    missed += [f"{row['distribution']} has no reason" for row in broken if not row["reason"]]
    named = [row for row in broken if row["distribution"].split("-")[0] in ("broken", "absent", "damaged", "unnamed")]
    if len(named) != num_broken:
        missed.append(f"{len(named)} of {num_broken} broken plugins are named")
    return missed


def cpu_ms(command: str, environment: dict[str, str]) -> float:
    """CPU time of one child process, user and system."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, *command.split()], env=environment, stdout=silent, stderr=silent)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {command} ended with {process.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1000


if __name__ == "__main__":
    sys.exit(main())
