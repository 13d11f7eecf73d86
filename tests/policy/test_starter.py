from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from share.kernel.config import Choice
from share.kernel.media.operator import load_operator
from share.kernel.policy.chat import parse_turn
from share.kernel.policy.loading import STARTER, PolicyConfig, load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import open_scene, teacher_forced
from share.kernel.policy.starter.architecture import make_configuration
from share.kernel.policy.starter.language import CORPUS
from share.kernel.policy.starter.tokenizer import INTEGER_MAX, make_tokenizer
from share.kernel.registry import load_registry


@pytest.fixture(scope="module")
def starter():
    torch.set_num_threads(1)
    return load_policy(PolicyConfig(device="cpu"))


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def test_the_starter_is_small_enough_to_be_kept_in_the_repository(starter):
    assert (STARTER / "model.safetensors").stat().st_size <= 12_000_000
    assert starter.num_parameters <= 3_000_000


def test_the_kept_tokenizer_and_configuration_are_what_the_command_makes():
    tokenizer = make_tokenizer(CORPUS)
    kept = json.loads((STARTER / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads(tokenizer.backend_tokenizer.to_str())["model"] == kept["model"]
    assert tokenizer.chat_template == (STARTER / "chat_template.jinja").read_text(encoding="utf-8")
    made, written = make_configuration(tokenizer).to_dict(), json.loads((STARTER / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        assert {key: made[part][key] for key in written[part]} == written[part]


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_survives_the_tokenizer(starter, text):
    if any(token in text for token in starter.tokenizer.all_special_tokens):
        return
    assert starter.tokenizer.decode(starter.tokenizer.encode(text)) == text


def test_coordinates_are_one_token_each_and_a_call_is_short(starter):
    encode = starter.tokenizer.encode
    assert all(len(encode(str(number))) == 1 for number in range(INTEGER_MAX + 1))
    assert len(starter.chat.call("ZOOM_IN", {"bbox": [12, 40, 20, 248]})) == 16
    assert len(starter.chat.answer("7")) == 4


def test_operations_reach_the_prompt_with_the_names_of_their_arguments(starter, registry):
    operator = load_operator(registry, [zoom_in(registry)])
    text = starter.tokenizer.decode(starter.chat.prompt("What digit is on the red card?", 1, operator.schemas()))
    assert "ZOOM_IN(bbox, image)" in text
    assert text.endswith("What digit is on the red card?<|im_end|>\n<|im_start|>assistant\n")


def test_calls_that_the_template_renders_are_parsed_back(starter):
    call = starter.tokenizer.decode(starter.chat.call("ZOOM_IN", {"bbox": [1, 2, 30, 40]}))
    parsed = parse_turn(call)
    assert (parsed.operation, parsed.arguments) == ("ZOOM_IN", {"bbox": [1, 2, 30, 40]})


def test_the_starter_reads_what_it_is_shown_when_someone_else_zooms(starter, registry):
    """The demonstration, followed, solves the task: the starter only has to find out where to look."""
    task = registry.build(Choice("task", "zoom_digits"))
    operator = load_operator(registry, [zoom_in(registry)], fit=starter.fit)
    prompts = [task.prompt("held_out", index) for index in range(40)]
    rollouts = [
        teacher_forced(starter, prompt, task.demonstrate(prompt, open_scene(starter, prompt)), operator)
        for prompt in prompts
    ]
    with torch.no_grad():
        results = token_logprobs(starter, rollouts)
    # the digit is the second of the four tokens of an answer
    likely = [bool(logprobs[-3] > torch.tensor(0.5).log()) for logprobs, _ in results]
    assert sum(likely) >= 34


def test_the_command_makes_a_policy_that_loads_and_goes_on_after_the_last_kept_stage(tmp_path):
    made = tmp_path / "made"
    arguments = ["--output", str(made), "--share", "0.0005"]
    command = [sys.executable, "-m", "share.kernel.policy.starter.make", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    assert load_policy(PolicyConfig(path=str(made), device="cpu")).backbone is not None
    for name in ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        assert json.loads((made / name).read_text()) == json.loads((STARTER / name).read_text())
    weights = (made / "model.safetensors").read_bytes()
    kept = [made / "stages" / f"{stage}.safetensors" for stage in ("eyes", "places")]
    written = [path.stat().st_mtime_ns for path in kept]
    for path in set((made / "stages").iterdir()) - set(kept):
        path.unlink()
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    assert [path.stat().st_mtime_ns for path in kept] == written
    assert (made / "model.safetensors").read_bytes() == weights


def zoom_in(registry):
    model = registry.config_model("operation", "ZOOM_IN")
    return Choice("operation", "ZOOM_IN", model.model_validate({"side_min": 56, "side_max": 56}))
