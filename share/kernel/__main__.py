"""`python -m share.kernel`: what is installed and was run, one operation at a time, custody of buffers and logs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from share.kernel.command import DEFAULT_WORKDIR, Parser, print_mistake, selection
from share.kernel.errors import PixelisError
from share.kernel.registry import load_registry

EXAMPLES = """\
examples:
  python -m share.kernel plugins                      every plugin with its state, and why it cannot be used
  python -m share.kernel plugins --strict             the same; exit code 1 when one is broken
  python -m share.kernel backends --json              every backend by kind and name
  python -m share.kernel runs                         past runs: status, backend, main metric, time
  python -m share.kernel schema operation ZOOM_IN     settings and tool schema of an operation
  python -m share.kernel run-operation ZOOM_IN --image photo.png --arguments '{"bbox": [0, 0, 90, 60]}' --output out.png
  python -m share.kernel buffer stat DIR              an experience buffer; also: verify dump compact rebuild erase
  python -m share.kernel buffer erase DIR --subject NAME   a person's experiences, from every file
  python -m share.kernel audit verify FILE            whether an audit log is what was written; also: show
  python -m share.kernel gate verify DIR              whether a service's decisions to learn follow from its log
  python -m share.kernel new-plugin ./count-red --operation COUNT_RED
"""
AUDIT_WORK = ("verify", "show")
GATE_WORK = ("verify",)
BUFFER_WORK = ("stat", "verify", "dump", "compact", "rebuild", "erase")


_GATE_EPILOG = """\
Every decision in DIR/gate is made again, in order, from the configuration and the figures logged with it: confidence,
entropy, size of the buffer, and the decisions before it. The cosine to what was learned lately is taken as it was
logged: embeddings are not in the log. The service may be at work meanwhile.

exit codes: 0 every decision follows, 1 one does not (file, line and field are named), 2 a mistake in what was asked for
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except PixelisError as error:
        return print_mistake(error)
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m share.kernel",
        description="What is installed, what was run, one operation at a time, custody of buffers and audit logs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, *, json: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--block", metavar="PLUGIN", action="append", default=[], help="do not load this plugin")
        if json:
            added.add_argument("--json", action="store_true", help="for programs")
        return added

    plugins = command("plugins", "every plugin and backend with its origin and state")
    plugins.add_argument("--strict", action="store_true", help="exit with 1 when one is broken")
    command("operations", "the visual operations")
    backends = command("backends", "every backend that can be used")
    backends.add_argument("kind", nargs="?", metavar="KIND", help="of this kind only, e.g. reward")
    runs = command("runs", "past runs, the latest first")
    runs.add_argument(
        "--workdir", type=Path, metavar="DIR", default=DEFAULT_WORKDIR, help="where the runs are (default %(default)s)"
    )
    schema = command("schema", "the JSON schema of a backend's settings", json=False)
    schema.add_argument("kind", metavar="KIND", help="e.g. trainer")
    schema.add_argument("name", metavar="NAME", help="e.g. grpo; `backends` lists kinds and names")
    operate = command("run-operation", "run an operation on an image or a video")
    operate.add_argument("operation", metavar="NAME")
    source = operate.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--image", type=Path, metavar="FILE", action="append", help="may be repeated: image_1, image_2, …"
    )
    source.add_argument("--video", type=Path, metavar="FILE", help="its first frame is image_1")
    operate.add_argument("--arguments", default="{}", metavar="JSON", help="as a policy would write them")
    operate.add_argument("--output", type=Path, metavar="FILE", help="where the picture goes: .png, .jpg or .webp")
    operate.add_argument("--timeout-s", type=float, default=60.0, help="time limit in seconds (default 60)")
    operate.add_argument(
        "--set", metavar="key.path=value", action="append", default=[], help="a setting of the operation"
    )
    buffer = command("buffer", "an experience buffer: what is in it, whether it is sound, what must go")
    buffer.add_argument("work", choices=BUFFER_WORK, metavar="|".join(BUFFER_WORK), help="stat, verify, dump only read")
    buffer.add_argument("directory", type=Path, metavar="DIR")
    buffer.add_argument("--output", type=Path, metavar="FILE", help="dump: .jsonl or .parquet, there when it is whole")
    buffer.add_argument("--subject", metavar="NAME", help="erase: what is about this person, from every file")
    buffer.add_argument("--older-than-days", type=float, metavar="N", help="erase: what was created longer ago")
    buffer.add_argument("--salvage", action="store_true", help="compact, rebuild, erase: keep what a damaged log has")
    buffer.add_argument(
        "--set", metavar="key.path=value", action="append", default=[], help="a setting, such as index=sketch"
    )
    audit = command("audit", "an audit log: whether it is what was written, and what it says")
    audit.add_argument("work", choices=AUDIT_WORK, metavar="|".join(AUDIT_WORK), help="both only read")
    audit.add_argument("log", type=Path, metavar="FILE")
    audit.add_argument("--known", type=Path, metavar="FILE", help="verify: a copy of the log's head, noted elsewhere")
    gate = command("gate", "what a service decided to learn from: whether every decision follows from what was logged")
    gate.add_argument("work", choices=GATE_WORK, metavar="|".join(GATE_WORK), help="make each again; only reads")
    gate.add_argument("directory", type=Path, metavar="DIR", help="of the service, by default work-dir/online")
    gate.formatter_class = argparse.RawDescriptionHelpFormatter
    gate.epilog = _GATE_EPILOG
    scaffold = command("new-plugin", "write a complete wheel project for an operation of your own", json=False)
    scaffold.add_argument("directory", type=Path, metavar="DIR", help="new; its name becomes the distribution's")
    scaffold.add_argument("--operation", required=True, metavar="NAME", help="as a policy writes it, e.g. COUNT_RED")
    return parser


def _plugins(arguments: argparse.Namespace) -> int:
    from share.kernel.listings import print_plugins

    return print_plugins(load_registry(**selection(os.environ, arguments.block)), arguments.json, arguments.strict)


def _operations(arguments: argparse.Namespace) -> int:
    arguments.kind = "operation"
    return _backends(arguments)


def _backends(arguments: argparse.Namespace) -> int:
    from share.kernel.listings import print_backends

    return print_backends(load_registry(**selection(os.environ, arguments.block)), arguments.kind, arguments.json)


def _runs(arguments: argparse.Namespace) -> int:
    from share.kernel.listings import print_runs

    return print_runs(arguments.workdir, arguments.json)


def _schema(arguments: argparse.Namespace) -> int:
    from share.kernel.listings import print_schema

    return print_schema(load_registry(**selection(os.environ, arguments.block)), arguments.kind, arguments.name)


def _run_operation(arguments: argparse.Namespace) -> int:
    from share.kernel.operate import operate

    return operate(load_registry(**selection(os.environ, arguments.block)), arguments)


def _buffer(arguments: argparse.Namespace) -> int:
    from share.kernel.custody import care

    return care(load_registry(**selection(os.environ, arguments.block)), arguments)


def _audit(arguments: argparse.Namespace) -> int:
    from share.kernel.listings import print_audit, print_audit_findings

    if arguments.work == "verify":
        return print_audit_findings(arguments.log, arguments.known, arguments.json)
    return print_audit(arguments.log, arguments.json)


def _gate(arguments: argparse.Namespace) -> int:
    from share.kernel.listings import print_gate_check

    return print_gate_check(arguments.directory, arguments.json)


def _new_plugin(arguments: argparse.Namespace) -> int:
    from share.kernel.scaffold import write_project

    for path in write_project(arguments.directory, arguments.operation):
        print(path)
    print(f"its tests pass now: cd {arguments.directory} && python -m pytest")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "plugins": _plugins,
    "operations": _operations,
    "backends": _backends,
    "runs": _runs,
    "schema": _schema,
    "run-operation": _run_operation,
    "buffer": _buffer,
    "audit": _audit,
    "gate": _gate,
    "new-plugin": _new_plugin,
}

if __name__ == "__main__":
    sys.exit(main())
