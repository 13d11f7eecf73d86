"""Tables of what is installed, what was run, and what was changed online; each also as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from share.kernel.errors import AuditBroken, ConfigError, DuplicatePlugin
from share.kernel.hookspecs import HOOK_API, KINDS
from share.kernel.registry import SLOW_IMPORT_S, Backend, Plugin, Registry


def print_plugins(registry: Registry, as_json: bool, strict: bool) -> int:
    """Every backend with its plugin, and the plugins that have none to show. Returns 1 if strict and one is broken."""
    registered = list(registry.backends())
    rows = [_row(registry, backend.plugin, backend) for backend in registered]
    with_backends = {id(backend.plugin) for backend in registered}
    rows += [_row(registry, plugin, None) for plugin in registry.plugins if id(plugin) not in with_backends]
    broken = sum(row["state"] == "broken" for row in rows)
    if as_json:
        print(json.dumps({"hook_api": HOOK_API, "plugins": rows}, indent=2))
    else:
        shown = ("kind", "name", "distribution", "version", "hook API", "state", "file")
        _print_table(shown, [[str(row[column.replace(" ", "_").lower()]) for column in shown] for row in rows])
        for row in rows:
            if row["reason"]:
                name = f"{row['kind']} {row['name']} of " if row["kind"] else ""
                where = f"{row['distribution']} {row['version']} (entry point {row['entry_point']!r})"
                print(f"{row['state']}: {name}{where}: {row['reason']}")
        for plugin in registry.plugins:
            if plugin.import_s >= SLOW_IMPORT_S:
                print(f"slow: {plugin} took {plugin.import_s:.2f} s to import; a plugin module only names its targets")
    return 1 if strict and broken else 0


def print_backends(registry: Registry, kind: str | None, as_json: bool) -> int:
    """The backends that can be used, of one kind or of all."""
    if kind is not None:
        _check_kind(kind)
    found = [registry.origin(of, name) for of in KINDS if kind in (None, of) for name in registry.names(of)]
    if as_json:
        rows = [
            {
                "kind": backend.kind,
                "name": backend.name,
                "summary": backend.summary,
                "distribution": backend.plugin.distribution,
                "version": backend.plugin.version,
                "target": backend.target,
            }
            for backend in found
        ]
        print(json.dumps(rows, indent=2))
    else:
        plugins = [f"{backend.plugin.distribution} {backend.plugin.version}" for backend in found]
        rows_text = [[b.kind, b.name, plugin, b.summary] for b, plugin in zip(found, plugins, strict=True)]
        _print_table(("kind", "name", "from", "what it is"), rows_text)
    for plugin in registry.broken:
        print(f"broken: {plugin}: {plugin.reason}", file=sys.stderr)
    return 0


def print_schema(registry: Registry, kind: str, name: str) -> int:
    """The settings of a backend, of its whole run where a command runs it; for an operation, also its tool schema."""
    _check_kind(kind)
    from share.kernel.kernel import KIND_OF_MODE
    from share.kernel.schema import backend_schema, run_schema

    if kind in KIND_OF_MODE.values():
        schema: dict[str, Any] = run_schema(registry, kind, name)
    else:
        schema = backend_schema(registry, kind, name)
    if kind == "operation":
        from share.kernel.config import Choice
        from share.kernel.media.operator import tool_schema

        schema = {"settings": schema, "tool": tool_schema(name, registry.build(Choice(kind, name)))}
    print(json.dumps(schema, indent=2))
    return 0


def print_runs(workdir: Path, as_json: bool) -> int:
    """Every run below `workdir`, the latest first."""
    from share.kernel.records import read_runs

    rows = read_runs(workdir)
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print(f"no runs in {workdir / 'runs'}")
        return 0
    table = []
    for row in rows:
        metric = row["main_metric"]
        value = row["metrics"].get(metric) if metric else None
        shown = f"{metric} {f'{value:.4g}' if isinstance(value, float) else value}" if metric else "-"
        seconds = f"{row['elapsed_ms'] / 1000:.1f} s" if row["elapsed_ms"] else "-"
        table.append([row["run_id"], row["status"], row["mode"], row["backend"], shown, seconds, row["error"] or ""])
    _print_table(("run", "status", "mode", "backend", "main metric", "time", "error"), table)
    return 0


def print_audit(log: Path, as_json: bool) -> int:
    """Every entry of an audit log, as it stands there. Returns 1 if there is a line that is none."""
    from share.kernel.adaptation.audit import AuditEntry, entries

    _check_log(log)
    found: list[AuditEntry] = []
    broken = None
    try:
        found.extend(entries(log))
    except AuditBroken as error:
        broken = error
    except OSError as error:
        raise ConfigError(f"{log}: cannot be read: {error.strerror}") from error
    if as_json:
        print(json.dumps([asdict(entry) for entry in found], indent=2))
    elif found:
        heads = ("entry", "when", "who", "what", "version", "reason", "task")
        rows = [
            [str(e.sequence), _when(e.at), e.actor, e.action, e.version or "-", e.reason or "-", e.task_id or "-"]
            for e in found
        ]
        _print_table(heads, rows)
    else:
        print(f"no entries in {log}")
    if broken is not None:
        print(f"error: {broken}", file=sys.stderr)
    return 1 if broken else 0


def print_audit_findings(log: Path, known: Path | None, as_json: bool) -> int:
    """What is wrong with an audit log, also against a copy of its head noted before. Returns 1 if anything is."""
    from share.kernel.adaptation.audit import read_head, verify

    _check_log(log)
    head = None
    if known is not None:
        head = read_head(known)
        if head is None:
            raise ConfigError(f"--known {known}: is no head of an audit log; give a copy of {log}.head")
    try:
        findings = verify(log, head)
    except OSError as error:
        raise ConfigError(f"{log}: cannot be read: {error.strerror}") from error
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for found in findings:
            print(f"{'LOSS' if found.is_loss else 'note'}: {found.path}: offset {found.offset}: {found.problem}")
        print(f"{log}: {len(findings) or 'nothing'} found")
    return 1 if findings else 0


def print_gate_check(directory: Path, as_json: bool) -> int:
    """How many of a service's logged decisions to learn follow again, and the first of each file that does not. Returns
    1 if there is one."""
    from share.kernel.serving.gate_log import verify_gate_log

    check = verify_gate_log(directory)
    if as_json:
        print(json.dumps(asdict(check), indent=2))
    else:
        for problem in check.differing:
            print(f"DIFFERS: {problem}")
        for path in check.torn:
            print(f"note: {path}: the last line has no end, as a crash leaves it")
        print(
            f"{directory / 'gate'}: {check.reproduced} of {check.decisions} decisions reproduced, {check.files} files"
        )
    return 1 if check.differing else 0


def _check_log(log: Path) -> None:
    from share.kernel.adaptation.audit import head_path

    if log.is_dir():
        raise ConfigError(f"{log}: is a directory; give the file of the log")
    if not log.exists() and not head_path(log).exists():
        raise ConfigError(f"{log}: there is no such audit log")


def _when(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(" ", "milliseconds")
    except (OSError, OverflowError, ValueError):  # a time that nobody's clock has shown
        return str(at)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"kind: no kind {kind!r}; there are {', '.join(KINDS)}")


def _row(registry: Registry, plugin: Plugin, backend: Backend | None) -> dict[str, Any]:
    state, reason = plugin.state, plugin.reason
    if backend is not None:
        state, reason = ("missing extra", backend.missing) if backend.missing else ("ok", "")
        try:
            registry.origin(backend.kind, backend.name)
        except DuplicatePlugin as error:
            state, reason = "broken", str(error)
    return {
        "kind": backend.kind if backend else "",
        "name": backend.name if backend else "",
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.entry_point,
        "file": plugin.file or plugin.module,
        "hook_api": plugin.hook_api or "",
        "state": state,
        "reason": reason,
        "import_ms": round(plugin.import_s * 1000, 1),
        "target": backend.target if backend else "",
        "summary": backend.summary if backend else "",
    }


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    for row in [heads, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


__all__ = [
    "print_audit",
    "print_audit_findings",
    "print_backends",
    "print_gate_check",
    "print_plugins",
    "print_runs",
    "print_schema",
]
