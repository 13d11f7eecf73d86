"""`python -m online.cli`: answer requests and learn from them."""

from __future__ import annotations

import sys

from share.kernel.command import run_command

EXAMPLES = """\
  python -m online.cli --help                        the backends that are installed
  python -m online.cli --backend NAME --schema       every setting of one, its type, default and meaning
  python -m online.cli --backend NAME --config FILE  run it
"""

if __name__ == "__main__":
    sys.exit(run_command("online", "online", "Answer requests and learn from them.", EXAMPLES))
