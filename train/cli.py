"""`python -m train.cli`: train a policy with any installed trainer."""

from __future__ import annotations

import sys

from share.kernel.command import run_command

EXAMPLES = """\
  python -m train.cli --backend grpo                          train the shipped starter policy on zoom_digits
  python -m train.cli --backend grpo --dry-run                check everything, two real steps, the plan
  python -m train.cli --backend grpo task=read_text seed=1    another task, another seed
  python -m train.cli --backend sft --config my.yaml          settings from a file
  python -m train.cli --backend grpo --schema                 every setting, its type, default and meaning
  python -m train.cli --resume RUN                            go on after Ctrl-C, a crash or a kill
"""

if __name__ == "__main__":
    sys.exit(run_command("train", "trainer", "Train a policy.", EXAMPLES))
