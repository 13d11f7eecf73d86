"""All five operations: latency and quality, each beside the plainest baseline in the same run, against its bar.

    python -m benchmarks.operations [--quick]

Exit code 1 when a bar is not met. Times are CPU ms in one thread. Each part can be run alone, with more settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks import read_text, segment_and_track, zoom_and_properties


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller scenes, about a tenth of the time")
    quick = parser.parse_args(arguments).quick
    met = [
        zoom_and_properties.report(20 if quick else 200),
        read_text.report(4 if quick else 24),
        segment_and_track.report(quick),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())
