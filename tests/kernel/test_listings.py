"""`python -m share.kernel`: every command answers people and programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from share.kernel.__main__ import main
from share.kernel.testing import example_scene
from tests.kernel.wheels import install, install_counting, operation_plugin


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(example_scene().natives[0]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def as_json(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def test_plugins_shows_each_with_its_origin_and_state(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install_counting(site)
    install(site, "sad-wheel", {"sad.py": "raise RuntimeError('is sad')"}, {"sad": "sad"}, version="0.3")
    slow = "import time\ntime.sleep(0.12)\n" + operation_plugin("ZOOM_IN", "a:b")
    install(site, "slow-wheel", {"slow.py": slow}, {"slow": "slow"})
    assert main(["plugins"]) == 0
    text = capsys.readouterr().out
    assert "broken: sad-wheel 0.3 (entry point 'sad'): RuntimeError: is sad" in text
    assert "slow: slow-wheel 1.0 (entry point 'slow') took 0.1" in text
    rows = as_json(capsys, "plugins", "--block", "reward")["plugins"]
    by_name = {(row["distribution"], row["name"] or row["entry_point"]): row for row in rows}
    assert by_name["counting", "counting"]["state"] == "ok"
    assert by_name["counting", "counting"]["file"] == str(site / "counting/plugin.py")
    assert by_name["counting", "counting"]["hook_api"] == 1
    assert by_name["pixelis", "reward"]["state"] == "blocked"
    sad = by_name["sad-wheel", "sad"]
    assert (sad["version"], sad["state"], sad["reason"]) == ("0.3", "broken", "RuntimeError: is sad")
    assert {by_name[name, "ZOOM_IN"]["state"] for name in ("slow-wheel", "pixelis")} == {"broken"}


def test_strict_fails_only_when_something_is_broken(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--strict"]) == 0
    install(site, "sad-wheel", {"sad.py": "raise RuntimeError('is sad')"}, {"sad": "sad"})
    assert main(["plugins", "--strict"]) == 1
    assert main(["plugins", "--strict", "--block", "sad-wheel"]) == 0
    capsys.readouterr()


def test_operations_and_backends_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert {row["name"] for row in as_json(capsys, "operations")} >= {"ZOOM_IN", "READ_TEXT"}
    kinds = {row["kind"] for row in as_json(capsys, "backends")}
    assert {"operation", "reward", "task", "trainer"} <= kinds
    assert {row["kind"] for row in as_json(capsys, "backends", "task")} == {"task"}
    assert main(["backends", "tsk"]) == 2
    assert "there are trainer, operation" in capsys.readouterr().err
    assert main(["schema", "tsk", "count"]) == 2
    assert "no kind 'tsk'" in capsys.readouterr().err


def test_the_schema_of_an_operation_holds_its_settings_and_its_tool(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "operation", "ZOOM_IN"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "side_min" in schema["settings"]["properties"]
    assert schema["tool"]["function"]["parameters"]["required"] == ["bbox"]


def test_an_operation_runs_on_an_image_and_writes_its_picture(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = '{"bbox": [10, 20, 38, 48]}'
    argv = ["run-operation", "ZOOM_IN", "--image", str(image), "--arguments", box, "--output", str(tmp_path / "o.png")]
    assert main([*argv, "--set", "side_min=56"]) == 0
    assert "image_2" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "o.png")).shape == (56, 56, 3)
    report = as_json(capsys, *argv)
    assert (report["status"], report["error"]) == ("ok", None)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["ZOOM_IN", "--arguments", '{"bbox": [0, 0, 999, 9]}'], 1, "refused: bbox: "),
        (["ZOOM_IN", "--arguments", "{"], 1, "refused: arguments: not JSON"),
        (["ZOOM", "--arguments", "{}"], 2, "error: no operation 'ZOOM'; did you mean 'ZOOM_IN'?"),
        (["ZOOM_IN", "--output", "o.gif"], 2, "error: --output: o.gif must end in .jpg, .png, .webp"),
        (["ZOOM_IN", "--output", "nowhere/o.png"], 2, "error: --output: nowhere is no directory; make it first"),
        (["ZOOM_IN", "--set", "side_mn=1"], 2, "error: side_mn: no such key; did you mean 'side_min'?"),
    ],
)
def test_what_cannot_be_run_says_why(
    argv: list[str], code: int, message: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run-operation", *argv, "--image", str(image)]) == code
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_a_picture_that_cannot_be_written_is_one_line(image: Path, tmp_path: Path) -> None:
    """No file of this process may grow, as on a full disk."""
    code = f"""
import resource, sys
from share.kernel.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(main(["run-operation", "ZOOM_IN", "--image", {str(image)!r}, "--arguments", '{{"bbox": [0, 0, 50, 50]}}',
               "--output", {str(tmp_path / "o.png")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: --output: {tmp_path / 'o.png'} cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == [image]


def test_a_broken_image_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    assert main(["run-operation", "ZOOM_IN", "--image", str(tmp_path / "broken.png")]) == 2
    assert "broken.png" in capsys.readouterr().err


def test_no_runs_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--workdir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path / 'runs'}\n"
