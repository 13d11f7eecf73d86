"""`python -m deploy.edge.cli`: run a model where the camera is."""

from __future__ import annotations

import sys

from share.kernel.command import run_command

EXAMPLES = """\
  python -m deploy.edge.cli --help                        the backends that are installed
  python -m deploy.edge.cli --backend NAME --schema       every setting of one, its type, default and meaning
  python -m deploy.edge.cli --backend NAME --config FILE  run it
"""

if __name__ == "__main__":
    sys.exit(run_command("deploy-edge", "deployer", "Run a model where the camera is.", EXAMPLES))
