"""`python -m autolabel.cli`: write labels for images."""

from __future__ import annotations

import sys

from share.kernel.command import run_command

EXAMPLES = """\
  python -m autolabel.cli --help                        the backends that are installed
  python -m autolabel.cli --backend NAME --schema       every setting of one, its type, default and meaning
  python -m autolabel.cli --backend NAME --config FILE  run it
"""

if __name__ == "__main__":
    sys.exit(run_command("autolabel", "autolabeler", "Write labels for images.", EXAMPLES))
