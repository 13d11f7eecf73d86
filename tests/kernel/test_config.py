"""Configurations come in layers, reach nested backends, and answer every mistake with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from share.kernel.config import (
    Choice,
    ConfigModel,
    choice,
    dump,
    first_difference,
    layered,
    merged,
    read_yaml,
    validate,
    with_run_settings,
)
from share.kernel.errors import ConfigError
from share.kernel.registry import Registry, registry_of


class WindowConfig(ConfigModel):
    window: int = 8
    """Actions that are looked at."""


class Window:
    def __init__(self, config: WindowConfig) -> None:
        self.config = config


class PlainConfig(ConfigModel):
    pass


class Plain:
    def __init__(self, config: PlainConfig) -> None:
        self.config = config


class InnerConfig(ConfigModel):
    learning_rate: float = 1e-3
    """Step size."""
    rewards: tuple[Annotated[Choice, choice("reward")], ...] = (Choice("reward", "window"),)
    """Reward components."""


class OuterConfig(ConfigModel):
    reward: Annotated[Choice, choice("reward")] = Choice("reward", "window")
    """A reward."""
    inner: InnerConfig = InnerConfig()
    """Nested settings."""
    other: Annotated[Choice, choice("reward")] | None = None
    """Another reward, or none."""


@pytest.fixture(scope="module")
def nested() -> Registry:
    from types import ModuleType

    from share.kernel import hookimpl

    @hookimpl
    def register_rewards(register) -> None:  # type: ignore[no-untyped-def]
        register("window", f"{__name__}:Window")
        register("plain", f"{__name__}:Plain")

    module = ModuleType("nested_plugin")
    module.register_rewards = register_rewards  # type: ignore[attr-defined]
    return registry_of(module)


def resolve(registry: Registry, *overrides: str, environment: dict[str, str] | None = None) -> OuterConfig:
    return validate(OuterConfig, layered([], environment or {}, overrides), registry)


def test_a_choice_takes_a_name_or_a_mapping_with_settings(nested: Registry) -> None:
    assert resolve(nested).reward == Choice("reward", "window", WindowConfig())
    assert resolve(nested, "reward=plain").reward == Choice("reward", "plain", PlainConfig())
    assert resolve(nested, "reward={name: window, window: 2}").reward.config == WindowConfig(window=2)
    assert nested.build(resolve(nested, "reward.window=3").reward).config.window == 3


def test_one_setting_of_a_default_choice_can_be_given_alone(nested: Registry) -> None:
    assert resolve(nested, "reward.window=3").reward == Choice("reward", "window", WindowConfig(window=3))
    assert resolve(nested, "other=window", "other.window=4").other == Choice("reward", "window", WindowConfig(window=4))


def test_a_backend_that_is_chosen_anew_takes_none_of_the_others_settings(nested: Registry) -> None:
    assert resolve(nested, "reward.window=3", "reward.name=plain").reward.name == "plain"
    assert resolve(nested, "reward.window=3", "reward=plain").reward.name == "plain"
    assert resolve(nested, "reward.window=3", "reward=window").reward.config == WindowConfig(), (
        "a bare name starts anew"
    )


def test_later_layers_win(nested: Registry, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("inner: {learning_rate: 1.0}\nreward: {name: window, window: 1}\n")
    second.write_text("inner: {learning_rate: 2.0}\n")
    environment = {"PIXELIS__INNER__LEARNING_RATE": "3.0", "PIXELIS__REWARD__WINDOW": "4", "HOME": "/"}

    def rate(files: list[Path], environment: dict[str, str], *overrides: str) -> tuple[float, ConfigModel | None]:
        config = validate(OuterConfig, layered(files, environment, overrides), nested)
        return config.inner.learning_rate, config.reward.config

    assert rate([], {}) == (1e-3, WindowConfig())
    assert rate([first], {}) == (1.0, WindowConfig(window=1))
    assert rate([first, second], {}) == (2.0, WindowConfig(window=1))
    assert rate([first, second], environment) == (3.0, WindowConfig(window=4))
    assert rate([first, second], environment, "inner.learning_rate=5e-4") == (5e-4, WindowConfig(window=4))


MISTAKES = {
    "reward.windw=3": "reward.windw: no such key; did you mean 'window'?",
    "reward.window=many": "reward.window: input should be a valid integer, unable to parse string as an integer",
    "reward=windw": "reward: no reward 'windw'; did you mean 'window'? there are plain, window",
    "reward=3": "reward: must be the name of a reward, or a mapping with its name and settings",
    "inner.rewards=[plain, {name: window, window: x}]": "inner.rewards.1.window: input should be a valid integer",
    "inner.learning_rat=1": "inner.learning_rat: no such key; did you mean 'learning_rate'?",
    "inner.learning_rate=.nan": "inner.learning_rate: input should be a finite number",
    "inner=1": "inner: must be a mapping of keys to values; set inner.KEY=… (given: 1)",
    "inner.rewards=plain": "inner.rewards: must be a list; set inner.rewards=[…] (given: 'plain')",
    "iner=1": "iner: no such key; did you mean 'inner'?",
    "other.window=1": "other: needs 'name', which reward it is",
    "inner": "inner: an override is key.path=value",
    "inner..x=1": "inner..x=1: 'inner..x' is not a key path",
    "inner=[": "inner=[: the value is not YAML: line 1:",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_a_mistake_is_one_line_with_its_whole_path_and_a_remedy(override: str, nested: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(nested, override)
    assert str(caught.value).startswith(MISTAKES[override])
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_a_line_each(nested: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(nested, "reward.windw=1", "inner.learning_rate=x")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "line 1: "), ("- 1", "must hold a mapping"), ("1: 2", "must hold a mapping"), ("\x00", "unacceptable")],
)
def test_a_file_that_cannot_be_used_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory; give a YAML file"
    path.write_bytes(b"\x89PNG")
    with pytest.raises(ConfigError, match="is not text in UTF-8; give a YAML file"):
        read_yaml(path)


def test_what_was_resolved_can_be_given_back(nested: Registry) -> None:
    model = with_run_settings(OuterConfig)
    config = validate(model, layered([], {}, ["reward.window=3", "seed=7", "inner.rewards=[plain, window]"]), nested)
    assert validate(model, dump(config), nested) == config
    assert dump(config)["reward"] == {"name": "window", "window": 3}


def test_a_choice_without_a_registry_keeps_the_name_and_refuses_settings() -> None:
    assert OuterConfig(reward="plain").reward == Choice("reward", "plain")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only be checked with a registry"):
        OuterConfig(reward={"name": "window", "window": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a task where a reward is needed"):
        OuterConfig(reward=Choice("task", "count"))


def test_the_first_difference_is_named_by_its_path() -> None:
    assert first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}) == ("b.c", 2, 3)
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == ("b", None, 2)
    assert first_difference({"a": [1]}, {"a": [1]}) is None


VALUES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)


@settings(max_examples=60, deadline=None)
@given(under=MAPPINGS, over=MAPPINGS)
def test_merging_changes_neither_layer_and_repeats_itself(under: dict[str, object], over: dict[str, object]) -> None:
    before = (repr(under), repr(over))
    once = merged(under, over)
    assert (repr(under), repr(over)) == before
    assert set(once) == set(under) | set(over)
    assert merged(once, over) == once
