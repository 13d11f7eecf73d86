"""Which backends are installed, by kind and name, and where each comes from.

`load_registry` walks the entry points of the group `pixelis`, sorted by distribution and name, each on its own: a
wheel that fails is kept in `Registry.broken` with its reason and felt by nobody else. Targets are imported when asked
for. A name that two plugins register is an error for whoever asks for it, never a silent choice.

pluggy checks and calls the hooks; its own entry-point loader is not used: it stops at the first wheel that fails and
drops the second of two entry points of one name.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import pluggy

from share.kernel import hookspecs
from share.kernel.errors import ConfigError, DuplicatePlugin, PixelisError, PluginLoadError, UnknownPlugin

if TYPE_CHECKING:
    from share.kernel.config import Choice, ConfigModel

GROUP = "pixelis"
HOST = "pixelis"
"""The distribution whose plugins stay on when third-party plugins are switched off."""

SLOW_IMPORT_S = 0.1

State = Literal["ok", "blocked", "broken", "missing extra"]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point: where it comes from and what became of it. `reason` says why when it is not `ok`."""

    distribution: str
    version: str
    entry_point: str
    module: str
    state: State = "ok"
    reason: str = ""
    file: str = ""
    hook_api: int | None = None
    import_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} (entry point {self.entry_point!r})"


@dataclass(frozen=True, slots=True)
class Backend:
    """One registration: the backend `name` of a kind, as its plugin announced it."""

    kind: str
    name: str
    target: str
    plugin: Plugin
    summary: str = ""
    missing: str = ""
    """What the needed extra lacks, with the remedy; empty when it is complete or none is needed."""


@dataclass(frozen=True, slots=True)
class Registry:
    """What is installed. A value: made by `load_registry`, passed down, never changed."""

    plugins: tuple[Plugin, ...]
    _backends: Mapping[tuple[str, str], tuple[Backend, ...]] = field(repr=False)

    @property
    def broken(self) -> tuple[Plugin, ...]:
        return tuple(plugin for plugin in self.plugins if plugin.state == "broken")

    def backends(self) -> Iterator[Backend]:
        """Every registration, also those that cannot be used, sorted by kind, name and distribution."""
        for same_name in self._backends.values():
            yield from same_name

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of a kind that can be used, sorted: one origin, nothing missing."""
        return tuple(
            name
            for (of, name), found in self._backends.items()
            if of == kind and len(found) == 1 and not found[0].missing
        )

    def origin(self, kind: str, name: str) -> Backend:
        """The one registration of that name. Raises UnknownPlugin, DuplicatePlugin."""
        found = self._backends.get((kind, name), ())
        if not found:
            raise UnknownPlugin(self._unknown(kind, name))
        if len(found) > 1:
            origins = " and ".join(str(backend.plugin) for backend in found)
            other = found[-1].plugin
            raise DuplicatePlugin(
                f"{kind} {name!r} is registered by {origins}: "
                f"uninstall one, or switch one off with --block {other.distribution}:{other.entry_point}"
            )
        return found[0]

    def get(self, kind: str, name: str) -> Any:
        """Import and return the target of a backend. Raises UnknownPlugin, DuplicatePlugin, PluginLoadError."""
        backend = self.origin(kind, name)
        if backend.missing:
            raise PluginLoadError(f"{kind} {name!r} of {backend.plugin}: {backend.missing}")
        module_name, _, attribute = backend.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (Exception, SystemExit) as error:  # a script that was never meant to be imported
            raise PluginLoadError(
                f"{kind} {name!r} of {backend.plugin} cannot be imported from {backend.target}: {one_line(error)}"
            ) from error

    def config_model(self, kind: str, name: str) -> type[ConfigModel]:
        """The model that the target's first parameter is annotated with. Raises as `get`, and PluginLoadError."""
        from share.kernel.config import ConfigModel  # pydantic is not paid for by listings

        annotation = _first_annotation(self.get(kind, name))
        if not (isinstance(annotation, type) and issubclass(annotation, ConfigModel)):
            backend = self.origin(kind, name)
            raise PluginLoadError(
                f"{kind} {name!r} of {backend.plugin}: the first parameter of {backend.target} must be annotated "
                "with the ConfigModel that configures it"
            )
        return annotation

    def build(self, choice: Choice) -> Any:
        """Make the object that a choice names: `Target(config)`. Raises as `get`; what the target raises on purpose."""
        target = self.get(choice.kind, choice.name)
        config = choice.config if choice.config is not None else self.config_model(choice.kind, choice.name)()
        try:
            return target(config)
        except PixelisError:
            raise
        except (Exception, SystemExit) as error:
            plugin = self.origin(choice.kind, choice.name).plugin
            raise PluginLoadError(
                f"{choice.kind} {choice.name!r} of {plugin} cannot be built: {one_line(error)}"
            ) from error

    def _unknown(self, kind: str, name: str) -> str:
        known = self.names(kind)
        if not known:
            message = f"no backend of kind {kind!r} is installed yet, so none is named {name!r}"
        else:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            near = near or [other for other in known if other.lower() == name.lower()]
            message = f"no {kind} {name!r}; " + (f"did you mean {near[0]!r}? " if near else "")
            message += f"there are {', '.join(known)}"
        for plugin in self.plugins:
            if plugin.state in ("broken", "blocked"):
                message += f"; {plugin.state}: {plugin}" + (f": {plugin.reason}" if plugin.reason else "")
        return message


def load_registry(block: Collection[str] = (), only: Collection[str] | None = None) -> Registry:
    """Find and load every plugin that is installed.

    `block` names plugins that are not imported, each as `distribution`, `entry-point` or `distribution:entry-point`.
    With `only`, third-party plugins that it does not name are not imported either; Pixelis's own stay.
    """
    manager = _manager()
    plugins: list[Plugin] = []
    backends: list[Backend] = []
    for plugin, import_module in _found():
        reason = _blocked(plugin, block, only)
        if reason:
            plugins.append(replace(plugin, state="blocked", reason=reason))
            continue
        loaded, registered = _load(manager, plugin, import_module)
        plugins.append(loaded)
        backends += registered
    return Registry(tuple(plugins), _by_name(backends))


def registry_of(module: ModuleType) -> Registry:
    """The registry of one plugin module that need not be installed; for tests."""
    plugin, registered = _load(_manager(), Plugin(module.__name__, "unknown", "", module.__name__), lambda: module)
    return Registry((plugin,), _by_name(registered))


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _by_name(backends: list[Backend]) -> dict[tuple[str, str], tuple[Backend, ...]]:
    found: dict[tuple[str, str], tuple[Backend, ...]] = {}
    for backend in sorted(backends, key=lambda backend: (backend.kind, backend.name)):
        key = (backend.kind, backend.name)
        found[key] = (*found.get(key, ()), backend)
    return found


def _found() -> list[tuple[Plugin, Callable[[], ModuleType]]]:
    """Every plugin that is installed with what imports it, sorted. Of two copies on the path the first wins.

    Only the metadata of distributions that name the group is read: importlib.metadata's own search parses all.
    """
    found: list[tuple[Plugin, Callable[[], ModuleType]]] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name, version = _directory_says(distribution)
        try:
            text = distribution.read_text("entry_points.txt")
            if text is None or f"[{GROUP}]" not in text:
                continue
            name = normalized(distribution.metadata["Name"] or name)
            version = distribution.metadata["Version"] or version
            if name in seen:
                continue
            seen.add(name)
            entries = [entry for entry in distribution.entry_points if entry.group == GROUP]
            found += [(Plugin(name, version, entry.name, entry.value), entry.load) for entry in entries]
        except Exception as error:  # metadata is a stranger's file as well
            found.append((Plugin(name, version, "", ""), partial(_unreadable, error)))
    return sorted(found, key=lambda item: (item[0].distribution, item[0].entry_point, item[0].module))


def _directory_says(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """(name, version) as the name of the metadata directory tells them, for metadata that cannot be read."""
    stem = getattr(getattr(distribution, "_path", None), "stem", "")
    name, _, version = stem.partition("-")
    return normalized(name) or "unnamed", version or "unknown"


def _unreadable(error: Exception) -> NoReturn:
    raise PluginLoadError(f"its metadata cannot be read: {one_line(error)}") from error


def _blocked(plugin: Plugin, block: Collection[str], only: Collection[str] | None) -> str:
    names = {plugin.distribution, plugin.entry_point, f"{plugin.distribution}:{plugin.entry_point}"}
    for name in block:
        if name in names or normalized(name) == plugin.distribution:
            return f"switched off by {name!r}"
    if only is None or plugin.distribution == HOST:
        return ""
    return "" if any(name in names or normalized(name) == plugin.distribution for name in only) else "not selected"


def _load(
    manager: pluggy.PluginManager, plugin: Plugin, import_module: Callable[[], ModuleType]
) -> tuple[Plugin, list[Backend]]:
    """Import one plugin and call its hooks; all of its registrations, or none and the reason."""
    started = time.perf_counter()
    try:
        with redirect_stdout(sys.stderr):  # what a plugin prints must not end up in a listing that a program reads
            module = import_module()
        plugin = replace(
            plugin, import_s=time.perf_counter() - started, file=str(getattr(module, "__file__", None) or "")
        )
        plugin = replace(plugin, hook_api=_hook_api(module))
        registered = _registrations(manager, plugin, module)
    except (Exception, SystemExit) as error:
        import_s = plugin.import_s or time.perf_counter() - started
        return replace(plugin, state="broken", reason=one_line(error), import_s=import_s), []
    missing = sorted({backend.missing for backend in registered if backend.missing})
    if missing:
        plugin = replace(plugin, state="missing extra", reason="; ".join(missing))
    return plugin, [replace(backend, plugin=plugin) for backend in registered]


def _hook_api(module: ModuleType) -> int:
    asked = getattr(module, "pixelis_hook_api", hookspecs.HOOK_API)
    if not isinstance(asked, int) or asked < 1:
        raise PluginLoadError(f"pixelis_hook_api must be a whole number from 1 on, not {asked!r}")
    if asked > hookspecs.HOOK_API:
        raise PluginLoadError(
            f"written for hook API {asked}, this Pixelis has {hookspecs.HOOK_API}: upgrade pixelis or install an older "
            "version of the plugin"
        )
    return asked


def _registrations(manager: pluggy.PluginManager, plugin: Plugin, module: ModuleType) -> list[Backend]:
    registered: list[Backend] = []
    try:
        manager.register(module)
        callers = manager.get_hookcallers(module) or []
        for caller in callers:
            if not caller.has_spec():
                near = difflib.get_close_matches(caller.name, dir(hookspecs), n=1)
                raise PluginLoadError(f"no hook {caller.name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if not callers:
            raise PluginLoadError("implements no hook: mark one with `from share.kernel import hookimpl`")
        for kind, hook in hookspecs.KINDS.items():
            caller = getattr(manager.hook, hook.__name__)
            if caller in callers:
                caller(register=_Registration(kind, plugin, registered))
    finally:
        if manager.is_registered(module):  # also when it was refused midway, with some of its hooks taken
            manager.unregister(module)
    return registered


@dataclass(frozen=True, slots=True)
class _Registration:
    """The `register` that a hook is given."""

    kind: str
    plugin: Plugin
    into: list[Backend]

    def __call__(self, name: str, target: str, *, summary: str = "", extra: str | None = None) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{self.kind} {name!r}: a name is letters, digits, '_', '-' and '.', a letter first")
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise ConfigError(f'{self.kind} {name!r}: a target is a string "module:attribute", not {target!r}')
        if any(other.kind == self.kind and other.name == name for other in self.into):
            raise ConfigError(f"{self.kind} {name!r} is registered twice")
        missing = _missing(self.plugin.distribution, extra) if extra else ""
        self.into.append(Backend(self.kind, name, target, self.plugin, str(summary), missing))


def _first_annotation(target: Any) -> Any:
    """What the first parameter of a target is annotated with, None when that cannot be told."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
        annotation = parameters[0].annotation if parameters else None
        if isinstance(annotation, str):
            # Only this annotation is looked up: others may name what exists for type checkers alone.
            annotation = eval(annotation, dict(vars(sys.modules[target.__module__])))
    except Exception:
        return None
    return annotation


def _missing(distribution: str, extra: str) -> str:
    """What of an extra is not installed, with the remedy; empty when all is."""
    from packaging.requirements import Requirement  # only paid for by plugins that name an extra

    lacking = []
    for line in importlib.metadata.requires(distribution) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue
        if not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(requirement.name)
    return f"needs {', '.join(lacking)}: pip install '{distribution}[{extra}]'" if lacking else ""


def normalized(distribution: str) -> str:
    """The name of a distribution as indexes compare it: lower case, runs of '-', '_' and '.' as one '-'."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def one_line(error: BaseException) -> str:
    """An exception as one line: the message of ours, type and message of any other."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception whose own __str__ raises
        text = ""
    if isinstance(error, PixelisError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


__all__ = [
    "GROUP",
    "HOST",
    "SLOW_IMPORT_S",
    "Backend",
    "Plugin",
    "Registry",
    "State",
    "load_registry",
    "normalized",
    "one_line",
    "registry_of",
]
