"""A stranger's wheel works beside Pixelis, and six that misbehave in seven ways harm neither it nor Pixelis."""

from __future__ import annotations

import json

import pytest

from tests.plugins.conftest import MISBEHAVING, ROOT, Environment

BOX = '{"bbox": [10, 10, 40, 30]}'


def test_the_tests_of_a_new_project_pass_at_once(environment: Environment) -> None:
    done = environment.run("-m", "pytest", "-q", cwd=environment.project)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_its_operation_runs_from_the_shell(environment: Environment) -> None:
    picture = environment.project / "out.png"
    done = environment.kernel(
        "run-operation", "BRIGHTNESS", "--image", str(environment.photo), "--arguments", BOX, "--output", str(picture)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mean brightness ")
    assert picture.exists()


def test_its_operation_is_in_the_prompts_tool_schema_and_runs_through_the_operator(environment: Environment) -> None:
    code = """
import json
from share.kernel.config import Choice
from share.kernel.media.operator import load_operator
from share.kernel.registry import load_registry
from share.kernel.testing import example_scene

operator = load_operator(load_registry(), [Choice("operation", name) for name in ("BRIGHTNESS", "ZOOM_IN")])
scene = example_scene()
outcome = operator.run("BRIGHTNESS", '{"bbox": [10, 10, 40, 30]}', scene)
zoomed = operator.run("ZOOM_IN", '{"bbox": [0, 0, 8, 8], "image": "image_2"}', scene)
print(json.dumps([operator.schemas(), outcome.error, list(scene.views), zoomed.error]))
"""
    schemas, error, views, zoom_error = json.loads(environment.run("-c", code, check=True).stdout)
    function = schemas[0]["function"]
    assert (function["name"], function["parameters"]["required"]) == ("BRIGHTNESS", ["bbox"])
    assert "how bright a box" in function["description"]
    assert (error, zoom_error) == (None, None)
    assert views == ["image_1", "image_2", "image_3"]


def test_a_policy_learns_to_call_its_operation_in_rollouts(environment: Environment) -> None:
    done = environment.run("-m", "tests.plugins.learn_to_call", "BRIGHTNESS", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for actions in json.loads(done.stdout):
        operation, observation, error = actions[0]
        assert (operation, error) == ("BRIGHTNESS", None)
        assert observation.startswith("mean brightness ")


def test_each_misbehaving_wheel_is_listed_with_distribution_version_and_reason(environment: Environment) -> None:
    rows = json.loads(environment.kernel("plugins", "--json").stdout)["plugins"]
    found = {(row["distribution"], row["version"]): (row["state"], row["reason"]) for row in rows}
    assert found["pixelis-brightness", "0.1.0"] == ("ok", "")
    assert found["import-fails", "0.2"] == ("broken", "ModuleNotFoundError: No module named 'no_such_module'")
    assert found["newer-api", "0.2"][0] == "broken"
    assert "written for hook API 99" in found["newer-api", "0.2"][1]
    assert found["name-taken", "0.2"][0] == "broken"
    assert "name-taken 0.2 (entry point 'name-taken') and pixelis 0.1.0" in found["name-taken", "0.2"][1]
    usable = {row["name"] for row in rows if row["state"] == "ok"}
    assert {"BRIGHTNESS", "ZOOM_IN", "GET_PROPERTIES", "RAISES", "WRONG_TYPE", "SLEEPS"} <= usable
    assert environment.kernel("plugins", "--strict").returncode == 1


def test_a_name_that_two_wheels_register_names_both_and_can_be_settled(environment: Environment) -> None:
    argv = ["run-operation", "READ_TEXT", "--image", str(environment.photo), "--arguments", "{}"]
    done = environment.kernel(*argv)
    assert done.returncode == 2
    assert "name-taken 0.2" in done.stderr
    assert "pixelis 0.1.0" in done.stderr
    assert environment.kernel(*argv, "--block", "name-taken").returncode == 0


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("raises", "fault", "raised KeyError: 'inside the operation'"),
        ("wrong-type", "fault", "returned str, not OperationResult"),
        ("sleeps", "timeout", "did not return within 0.5 s"),
    ],
)
def test_an_operation_that_misbehaves_is_named_with_its_wheel(
    name: str, status: str, message: str, environment: Environment
) -> None:
    assert name in MISBEHAVING
    operation = name.upper().replace("-", "_")
    done = environment.kernel("run-operation", operation, "--image", str(environment.photo), "--timeout-s", "0.5")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{status}: {operation} ({name} 0.2)")
    assert message in done.stderr
