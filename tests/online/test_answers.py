"""The official `openai` client against a service in a process of its own."""

from __future__ import annotations

import openai
import pytest

from share.kernel.registry import Registry
from tests.online.running import Service, question


def test_a_question_about_an_image_is_answered_with_where_the_answer_comes_from(
    service: Service, registry: Registry
) -> None:
    messages, _ = question(registry)
    done = service.client().chat.completions.create(model="pixelis", messages=messages)  # type: ignore[arg-type]
    told = done.model_extra["pixelis"]  # type: ignore[index]
    assert done.object == "chat.completion"
    assert done.choices[0].message.content
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.id == f"chatcmpl-{told['trace_id']}"
    assert done.system_fingerprint == told["policy_version"] == "frozen"
    assert 0.0 <= told["confidence"] <= 1.0
    assert (told["path"], told["expert"], told["finish"]) == ("policy", "frozen", "answer")
    assert [used["name"] for used in told["operations"]] == ["ZOOM_IN"]
    assert len(told["operations"][0]["arguments"]["bbox"]) == 4


def test_the_same_question_and_seed_get_the_same_answer_and_another_temperature_may_not(
    service: Service, registry: Registry
) -> None:
    messages, _ = question(registry, 5)
    ask = service.client().chat.completions.create
    answers = [
        ask(model="pixelis", messages=messages, temperature=1.0, seed=7).choices[0].message.content  # type: ignore[call-overload]
        for _ in range(2)
    ]
    assert answers[0] == answers[1]


def test_a_question_without_an_image_is_answered_too(service: Service) -> None:
    done = service.client().chat.completions.create(
        model="pixelis",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is seven?"}],
        max_tokens=8,
    )
    assert done.usage is not None
    assert 1 <= done.usage.completion_tokens <= 8


def test_a_stream_has_the_chunks_that_clients_expect(service: Service, registry: Registry) -> None:
    messages, _ = question(registry)
    ask = service.client().chat.completions.create
    whole = ask(model="pixelis", messages=messages)  # type: ignore[call-overload]
    chunks = list(
        ask(model="pixelis", messages=messages, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert content == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    drafts = [chunk.choices[0].delta.model_extra or {} for chunk in chunks if chunk.choices]
    draft = "".join(each.get("reasoning_content", "") for each in drafts)
    assert draft == content, "nothing was remembered that could bear out another answer"
    told = [chunk.model_extra["pixelis"] for chunk in chunks if "pixelis" in (chunk.model_extra or {})]
    assert told[0]["operation"]["name"] == "ZOOM_IN"
    assert told[-1]["operations"][0]["arguments"] == told[0]["operation"]["arguments"]


def test_a_client_that_goes_away_frees_its_place_and_others_are_answered(service: Service, registry: Registry) -> None:
    messages, _ = question(registry)
    client = service.client()
    for _ in range(12):  # more than may wait
        client.chat.completions.create(model="pixelis", messages=messages, stream=True).close()  # type: ignore[call-overload]
    assert client.chat.completions.create(model="pixelis", messages=messages).choices  # type: ignore[call-overload]


def test_there_is_one_model(service: Service) -> None:
    models = service.client("viewer").models
    assert [model.id for model in models.list()] == ["pixelis"]
    assert models.retrieve("pixelis").owned_by == "pixelis"


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"n": 2}, "n"),
        ({"top_p": 0.5}, "top_p"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"logit_bias": {"42": 1}}, "logit_bias"),
        ({"stop": ["\n"]}, "stop"),
        ({"stop": "\n"}, "stop"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 9_000}]}, "9,000"),
        ({"messages": [{"role": "user", "content": "<|image_pad|>"}]}, "control tokens"),
        ({"extra_body": {"pixelis": {"deadline_s": 0}}}, "pixelis.deadline_s"),
        ({"extra_body": {"pixelis": {"readonly": True}}}, "pixelis.readonly"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    parameters: dict[str, object], named: str, service: Service
) -> None:
    asked = {"model": "pixelis", "messages": [{"role": "user", "content": "x"}], **parameters}
    with pytest.raises(openai.UnprocessableEntityError, match=named) as caught:
        service.client().chat.completions.create(**asked)  # type: ignore[call-overload]
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "parameters",
    [
        {"stop": None, "tools": None, "logit_bias": None, "response_format": None, "tool_choice": None, "seed": None},
        {"stop": [], "tools": [], "logit_bias": {}, "response_format": {"type": "text"}, "tool_choice": "none"},
        {"n": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False, "stream_options": None},
    ],
)
def test_what_asks_for_nothing_is_taken(parameters: dict[str, object], service: Service) -> None:
    asked = {"model": "pixelis", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, **parameters}
    assert service.client().chat.completions.create(**asked).choices  # type: ignore[call-overload]


def test_a_model_that_there_is_not_is_not_found(service: Service) -> None:
    client = service.client()
    with pytest.raises(openai.NotFoundError) as asked:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError) as retrieved:
        client.models.retrieve("gpt-4o")
    assert asked.value.code == retrieved.value.code == "model_not_found"


def test_feedback_is_taken_from_who_got_the_answer_alone(service: Service, registry: Registry) -> None:
    messages, _ = question(registry)
    done = service.client().chat.completions.create(model="pixelis", messages=messages)  # type: ignore[call-overload]
    said = {"trace_id": done.model_extra["pixelis"]["trace_id"], "correct": False, "answer": "3"}
    assert service.call("POST", "/v1/feedback", said, key=service.keys["client"]).json["recorded"] is True
    assert service.call("POST", "/v1/feedback", said, key=service.keys["admin"]).status == 404
    unknown = service.call("POST", "/v1/feedback", {**said, "trace_id": "never"}, key=service.keys["client"])
    assert unknown.status == 404
    assert unknown.json["error"]["code"] == "unknown_trace"
