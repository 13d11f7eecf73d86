"""`python -m online.cli`: answer requests and learn from them."""

from __future__ import annotations

import sys

from share.kernel.command import run_command

DEMO = {
    "--demo": (
        "ask itself a stream that drifts, review every second answer, show what is learned, and end",
        ("demo_items=240", "port=0", "engine.review.audit_share=0.5", "engine.gate.lr_max=0.002", "alerts.kl_max=1"),
    )
}

EXAMPLES = """\
  python -m online.cli                          serve the shipped starter policy on http://127.0.0.1:8000, and learn
  python -m online.cli --demo                   it asks itself a stream that drifts, and shows what it learns
  python -m online.cli port=0 read_only=true    on a free port; nothing is kept, nothing is learned
  python -m online.cli policy.path=DIR          another policy
  python -m online.cli --config my.yaml         settings from a file
  python -m online.cli --schema                 every setting, its type, default and meaning
"""

if __name__ == "__main__":
    sys.exit(
        run_command("online", "online", "Answer requests and learn from them.", EXAMPLES, default="pixelis", short=DEMO)
    )
