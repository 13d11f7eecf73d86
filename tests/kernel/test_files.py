"""Files of a run: what JSON cannot say is still written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from share.kernel.files import write_json


def test_what_json_lacks_is_written_nevertheless(tmp_path: Path) -> None:
    path = os.fsdecode(b"photo-\xff.png")
    write_json(tmp_path / "record.json", {"error": path, "loss": float("nan"), "steps": np.int64(3), "who": "Zoë"})
    read = json.loads((tmp_path / "record.json").read_text())
    assert read == {"error": path, "loss": "nan", "steps": 3, "who": "Zoë"}
    assert os.fsencode(read["error"]) == b"photo-\xff.png"
