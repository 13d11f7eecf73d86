"""`python -m deploy.remote.cli`: serve a model to others."""

from __future__ import annotations

import sys

from share.kernel.command import run_command

EXAMPLES = """\
  python -m deploy.remote.cli --help                        the backends that are installed
  python -m deploy.remote.cli --backend NAME --schema       every setting of one, its type, default and meaning
  python -m deploy.remote.cli --backend NAME --config FILE  run it
"""

if __name__ == "__main__":
    sys.exit(run_command("deploy-remote", "deployer", "Serve a model to others.", EXAMPLES))
