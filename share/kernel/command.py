"""What the command lines share: they parse, load the registry, call the kernel, print, and exit.

Exit codes: 0 the run ended well (also a dry run), 1 it failed, 2 what was asked for is a mistake (one line each on
stderr, nothing was written), 130 it was interrupted and can be resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn

from share.kernel.errors import ConfigError, PixelisError
from share.kernel.registry import Registry, load_registry

if TYPE_CHECKING:
    from share.kernel.contracts.run import Mode, RunResult

PLUGINS_VARIABLE = "PIXELIS_PLUGINS"
DEFAULT_WORKDIR = Path("work-dir")
"""As in `RunSettings`, which pydantic comes with: too heavy for a listing."""

EXIT_CODES = {"ok": 0, "dry_run": 0, "failed": 1, "interrupted": 130}
MISTAKE = 2

_EPILOG = """\
Values are layered, the later wins: the backend's defaults, --config files from left to right, the environment
(PIXELIS__A__B=value sets a.b), and key.path=value arguments. Values are YAML. A nested backend is chosen by name and
set by path: {choice}.

plugins:
  --block NAME, or PIXELIS_PLUGINS: 'off' loads none but Pixelis's own, 'a,b' only these besides, '-a,-b' all but these;
  a name is a distribution, an entry point, or distribution:entry-point. See: python -m share.kernel plugins

exit codes: 0 ended well, 1 failed, 2 a mistake in what was asked for, 130 interrupted (go on with --resume)
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are one line, and whose help can list the backends of a kind."""

    kind: str | None = None

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"error: {message}; see {self.prog} --help\n")

    def format_help(self) -> str:
        text = super().format_help()
        if self.kind is None:
            return text
        registry = load_registry(**selection(os.environ, ()))
        names = registry.names(self.kind)
        width = max((len(name) for name in names), default=0)
        lines = [f"  {name:{width}}  {registry.origin(self.kind, name).summary}".rstrip() for name in names]
        return text + "\nbackends:\n" + ("\n".join(lines) or f"  none: no {self.kind} is installed yet") + "\n"


def run_command(
    mode: Mode,
    kind: str,
    description: str,
    examples: str,
    argv: Sequence[str] | None = None,
    *,
    default: str | None = None,
    short: Mapping[str, tuple[str, Sequence[str]]] | None = None,
) -> int:
    """The whole command line of one mode; returns the exit code.

    `default` is the backend where none is named. `short` are options that are short for settings: by name, what they
    are for and the overrides, which come before those that are given.
    """
    parser = _parser(mode, kind, description, examples, default)
    for option, (purpose, overrides) in (short or {}).items():
        parser.add_argument(option, dest="short", action="append_const", const=overrides, help=purpose)
    arguments = parser.parse_intermixed_args(argv)
    try:
        registry = load_registry(**selection(os.environ, arguments.block))
        if arguments.schema:
            from share.kernel.schema import run_schema

            print(json.dumps(run_schema(registry, kind, _backend(arguments, default)), indent=2))
            return 0
        with _stop_on_signals() as stop:
            result = _run(mode, arguments, registry, stop, default)
    except PixelisError as error:
        return print_mistake(error)
    except KeyboardInterrupt:
        print("interrupted before the run began", file=sys.stderr)
        return EXIT_CODES["interrupted"]
    _print(result)
    return EXIT_CODES[result.status]


def selection(environment: Mapping[str, str], block: Sequence[str]) -> dict[str, Any]:
    """The arguments of `load_registry` that `--block` and PIXELIS_PLUGINS ask for."""
    asked = [name.strip() for name in environment.get(PLUGINS_VARIABLE, "").split(",") if name.strip()]
    only = [name for name in asked if not name.startswith("-")]
    blocked = [*block, *(name[1:] for name in asked if name.startswith("-"))]
    if only == ["off"]:
        return {"block": blocked, "only": ()}
    return {"block": blocked, "only": only or None}


def print_mistake(error: PixelisError) -> int:
    """One line per mistake on stderr; returns the exit code of a mistake."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return MISTAKE


def _parser(mode: Mode, kind: str, description: str, examples: str, default: str | None) -> Parser:
    choice = "task=read_text, or task.difficulties=[0]" if mode == "train" else "name=…, or name.setting=…"
    parser = Parser(
        prog=_prog(mode),
        description=description,
        epilog=f"examples:\n{examples}\n{_EPILOG.format(choice=choice)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.kind = kind
    is_default = f" ({default} when not given)" if default is not None else ""
    parser.add_argument("--backend", metavar="NAME", help=f"the {kind} to run{is_default}")
    parser.add_argument("--config", metavar="FILE", nargs="+", action="extend", default=[], help="YAML files")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="settings, for example seed=1")
    parser.add_argument("--dry-run", action="store_true", help="check everything, try it briefly and print the plan")
    parser.add_argument("--resume", metavar="RUN", help="go on with a run, given by its id or directory")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of the backend's configuration")
    parser.add_argument(
        "--block", metavar="PLUGIN", action="append", default=[], help="do not load this plugin; may be repeated"
    )
    return parser


def _prog(mode: Mode) -> str:
    return f"python -m {mode.replace('deploy-', 'deploy.')}.cli"


def _backend(arguments: argparse.Namespace, default: str | None) -> str:
    name = arguments.backend or default
    if name is None:
        raise ConfigError("--backend NAME is needed; --help lists the names")
    return str(name)


def _run(mode: Mode, arguments: argparse.Namespace, registry: Registry, stop: Event, default: str | None) -> RunResult:
    from share.kernel.config import layered
    from share.kernel.kernel import VisionKernel
    from share.kernel.records import find_run

    # `--config a.yaml b.yaml seed=1` gives argparse three files; the last is plainly an override.
    files = [Path(text) for text in arguments.config if "=" not in text or Path(text).exists()]
    overrides = [override for overrides in getattr(arguments, "short", None) or () for override in overrides]
    overrides += [text for text in arguments.config if Path(text) not in files] + arguments.overrides
    kernel = VisionKernel(registry, stop=stop, echo=sys.stderr)
    if arguments.resume is None:
        name = _backend(arguments, default)
        return kernel.run(mode, name, layered(files, os.environ, overrides), dry_run=arguments.dry_run)
    if arguments.dry_run:
        raise ConfigError("--dry-run: cannot be combined with --resume; a dry run is always a new one")
    changes = layered(files, os.environ, overrides)
    run_dir = find_run(arguments.resume, Path(str(changes.pop("workdir", DEFAULT_WORKDIR))))
    return kernel.resume(mode, run_dir, changes, name=arguments.backend)


@contextmanager
def _stop_on_signals() -> Iterator[Event]:
    """The first Ctrl-C or SIGTERM sets the event, a second one raises KeyboardInterrupt."""
    stop = Event()

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        os.write(2, b"\nstopping where nothing is lost; once more stops at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(result: RunResult) -> None:
    run = result.run_context
    print(f"{result.status} after {result.elapsed_ms / 1000:.1f} s: {run.run_dir}")
    for path, value in flattened(run.metrics):
        print(f"  {path}: {f'{value:.4g}' if isinstance(value, float) else value}")
    for name, artifact in sorted(result.artifacts.items()):
        print(f"  {name}: {artifact}")
    if result.status == "interrupted" and not run.dry_run:
        is_found_by_id = run.workdir == DEFAULT_WORKDIR.absolute()
        print(f"  go on with: {_prog(run.mode)} --resume {run.run_id if is_found_by_id else run.run_dir}")


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Metrics as (dotted path, value); lists are left out, they are for files."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", value


__all__ = ["EXIT_CODES", "MISTAKE", "Parser", "flattened", "print_mistake", "run_command", "selection"]
