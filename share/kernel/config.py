"""Configuration: pydantic models of backends, choices of nested backends, and where their values come from.

Values are layered: the models' defaults, YAML files from left to right, the environment (`PIXELIS__A__B=value` for
`a.b`), and `key.path=value` arguments; the later wins. Values of the last two are read as YAML. Mistakes are reported
as one line each: the dotted path, what is wrong, and what to do.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from share.kernel.errors import ConfigError, PixelisError

if TYPE_CHECKING:
    from share.kernel.registry import Registry

ENVIRONMENT_PREFIX = "PIXELIS__"

_NAMED = re.compile(r"([a-z][a-z_]*(?:\.[a-z_]+)*): (.+)")


class ConfigModel(BaseModel):
    """Base of every configuration: frozen, no unknown keys; attribute docstrings are the descriptions, with units."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_key(cls, data: Any) -> Any:
        """Unknown keys are named with the known key that was probably meant; pydantic's own message cannot."""
        if isinstance(data, Mapping):
            _refuse_others(list(cls.model_fields), data)
        return data

    def check_here(self, workdir: Path) -> None:
        """Look at what a run needs of this machine at this moment, such as a port that nobody listens on.

        The kernel calls it of the configuration of a run, before its directory is made below `workdir`. Raises
        ConfigError in the words of a mistake in the configuration.
        """


class RunSettings(ConfigModel):
    """What every run can set beside its backend's own keys."""

    run_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100, default="run")
    """Beginning of the run's id, `<run_name>-<YYYYMMDD-HHMMSS>`; the backend's name when not set."""
    workdir: Path = Path("work-dir")
    """Directory that keeps what runs leave behind, below `runs/<run_id>`."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything that is random in the run."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A nested backend that was chosen: kind, name and its configuration.

    `config` is None where it was chosen without a registry, by name alone; `Registry.build` then uses the defaults.
    """

    kind: str
    name: str
    config: ConfigModel | None = None


@dataclass(frozen=True, slots=True)
class _ChoiceOf:
    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump_choice),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        return {"anyOf": [{"type": "string"}, named], "x-pixelis-kind": self.kind}

    def _validate(self, value: Any, info: ValidationInfo) -> Choice:
        registry: Registry | None = (info.context or {}).get("registry")
        if isinstance(value, Choice):
            if value.kind != self.kind:
                raise _mistake(f"a {value.kind} where a {self.kind} is needed")
            if value.config is not None or registry is None:
                return value
            value = value.name
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise _mistake(f"must be the name of a {self.kind}, or a mapping with its name and settings")
        settings = dict(value)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise _mistake(f"needs 'name', which {self.kind} it is")
        if registry is None:
            if settings:
                raise _mistake("settings of a nested backend can only be checked with a registry: use validate()")
            return Choice(self.kind, name)
        try:
            model = registry.config_model(self.kind, name)
        except PixelisError as error:
            raise _mistake(str(error)) from error
        _refuse_others(["name", *model.model_fields], value)
        return Choice(self.kind, name, model.model_validate(settings, context=info.context))


def choice(kind: str) -> _ChoiceOf:
    """Marks a field as the choice of a backend: `task: Annotated[Choice, choice("task")] = "zoom_digits"`.

    The value may be a name or a mapping with `name` and the settings of that backend, which its own model checks.
    """
    return _ChoiceOf(kind)


Model = TypeVar("Model", bound=ConfigModel)


def validate(model: type[Model], data: Mapping[str, Any], registry: Registry) -> Model:
    """The configuration that `data` says. Raises ConfigError: a line per mistake, with dotted path and remedy."""
    try:
        return model.model_validate(merged(_chosen_by_default(model), data), context={"registry": registry})
    except ValidationError as error:
        raise ConfigError("\n".join(_line(mistake) for mistake in error.errors(include_url=False))) from error


@functools.cache
def with_run_settings(model: type[ConfigModel]) -> type[ConfigModel]:
    """The model of a whole run: the backend's own keys beside `run_name`, `workdir` and `seed`."""
    return type(model.__name__, (model, RunSettings), {"__module__": model.__module__, "__doc__": model.__doc__})


def layered(
    files: Sequence[Path],
    environment: Mapping[str, str],
    overrides: Iterable[str],
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that was said, laid over `base`. Raises ConfigError naming the file, variable or argument."""
    data = dict(base or {})
    for path in files:
        data = merged(data, read_yaml(path))
    for variable in sorted(environment):
        if variable.startswith(ENVIRONMENT_PREFIX):
            path_text = variable.removeprefix(ENVIRONMENT_PREFIX).replace("__", ".").lower()
            data = merged(data, _nested(path_text, environment[variable], variable))
    for override in overrides:
        path_text, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"{override}: an override is key.path=value, for example seed=1")
        data = merged(data, _nested(path_text, text, override))
    return data


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML (or JSON) file that holds a mapping. Raises ConfigError naming file and line."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8; give a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_yaml_problem(error)}") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path}: must hold a mapping of keys to values")
    return data


def dump(config: ConfigModel) -> dict[str, Any]:
    """The resolved configuration as JSON values; it can be given back as a `--config` file."""
    return config.model_dump(mode="json")


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """(dotted path, old value, new value) of the first key that differs, None when none does."""
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found = first_difference(before, after, f"{prefix}{key}.")
            if found:
                return found
        elif before != after:
            return f"{prefix}{key}", before, after
    return None


def _nested(path_text: str, text: str, source: str) -> dict[str, Any]:
    keys = path_text.split(".")
    if not all(keys):
        raise ConfigError(f"{source}: {path_text!r} is not a key path like reward.window")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: the value is not YAML: {_yaml_problem(error)}") from error
    for key in reversed(keys):
        value = {key: value}
    return {str(key): inner for key, inner in value.items()}


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, mappings key by key.

    A bare name is that backend with its defaults; another name takes none of the settings that stood there.
    """
    layers = dict(under)
    for key, value in over.items():
        existing = layers.get(key)
        if isinstance(value, Mapping) and isinstance(existing, str) and "name" not in value:
            existing = {"name": existing}
        if (
            isinstance(value, Mapping)
            and isinstance(existing, Mapping)
            and value.get("name", existing.get("name")) == existing.get("name")
        ):
            layers[key] = merged(existing, value)
        else:
            layers[key] = value
    return layers


def _chosen_by_default(model: type[BaseModel]) -> dict[str, Any]:
    """What the choice fields of a model choose by default, so that one setting of it can be given alone."""
    chosen: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if any(isinstance(mark, _ChoiceOf) for mark in field.metadata):
            default = field.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, Choice):
                default = _dump_choice(default)
            if isinstance(default, str | dict):
                chosen[name] = default
        elif (
            isinstance(field.annotation, type) and issubclass(field.annotation, ConfigModel) and not field.is_required()
        ):
            nested = _chosen_by_default(field.annotation)
            if nested:
                chosen[name] = nested
    return chosen


def _dump_choice(chosen: Choice) -> dict[str, Any]:
    return {"name": chosen.name, **(dump(chosen.config) if chosen.config is not None else {})}


def _refuse_others(known: Sequence[str], data: Mapping[str, Any]) -> None:
    """Raises ValidationError for every key that is not among those that are known."""
    mistakes = []
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known) or 'none'}"
            error = PydanticCustomError("unknown_key", "no such key; {remedy}", {"remedy": remedy})
            mistakes.append(InitErrorDetails(type=error, loc=(str(key),), input=data[key]))
    if mistakes:
        raise ValidationError.from_exception_data("configuration", mistakes)


def _mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError("choice", "{message}", {"message": message})


def _line(mistake: Any) -> str:
    path = ".".join(str(part) for part in mistake["loc"]) or "configuration"
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "missing":
        return f"{path}: is needed; set {path}=…"
    if mistake["type"] in ("unknown_key", "choice"):
        return f"{path}: {message}"
    if mistake["type"] in ("tuple_type", "list_type"):
        message = f"must be a list; set {path}=[…]"
    elif mistake["type"] in ("dict_type", "mapping_type", "model_type"):
        message = f"must be a mapping of keys to values; set {path}.KEY=…"
    elif mistake["type"] == "value_error" and isinstance(mistake["input"], Mapping):
        named = _NAMED.fullmatch(message)  # a check of several keys names the one that is to be changed
        if named is not None:
            return f"{'.'.join([*map(str, mistake['loc']), named[1]])}: {named[2]}"
    return " ".join(f"{path}: {message[:1].lower()}{message[1:]} (given: {mistake['input']!r:.80})".split())


__all__ = [
    "ENVIRONMENT_PREFIX",
    "Choice",
    "ConfigModel",
    "RunSettings",
    "choice",
    "dump",
    "first_difference",
    "layered",
    "merged",
    "read_yaml",
    "validate",
    "with_run_settings",
]
