"""Which version serves: published when it qualified, taken back when it does harm, and told to the audit log first.

What the worker writes is served only through here. A version that was taken back is never published again, however
often its confirmation comes. The store's pointer is what counts after a restart; the policy in memory follows it.
"""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from share.kernel.errors import AuditUnavailable, UnknownVersion, VersionConflict, VersionDamaged
from share.kernel.files import write_json
from share.kernel.serving.audit_trail import AuditTrail
from share.kernel.serving.evidence import Evidence
from share.kernel.serving.statistics import ReleaseStatistics
from share.kernel.serving.troubles import Troubles
from share.kernel.serving.versions import FROZEN
from share.kernel.serving.weights import ServedPolicies

ENGINE = "engine"
"""The actor of what nobody ordered."""

WITHDRAWN_MAX = 100


class _State(BaseModel):
    """What the file holds. `restore` is the version that the worker has not confirmed yet to go on from, and
    `restore_id` the task that says so."""

    model_config = ConfigDict(extra="forbid")

    is_learning: bool = True
    withdrawn: list[str] = []
    restore: str | None = None
    restore_id: str = ""


class Releases:
    """Publishes and takes back. Thread-safe; whoever serves meanwhile is never waited for.

    At the start the version that the store says is served; one that cannot be read leaves the frozen policy.
    """

    def __init__(
        self,
        path: Path,
        served: ServedPolicies,
        trail: AuditTrail,
        evidence: Evidence,
        troubles: Troubles,
    ) -> None:
        self._path = path
        self._served = served
        self._store = served.store
        self._trail = trail
        self._evidence = evidence
        self._troubles = troubles
        self._lock = threading.RLock()
        self._state = self._read()
        self._counts = {"qualified": 0, "refused": 0, "published": 0, "rollback": 0, "reset": 0}
        try:
            live = self._store.live()
            if live != FROZEN:
                served.adopt(live)
        except (VersionDamaged, UnknownVersion) as error:
            troubles.note("version_damaged", type(error).__name__, f"{error}; the shipped policy serves")

    @property
    def live(self) -> str:
        """The version that serves."""
        return self._served.live().version

    @property
    def is_learning(self) -> bool:
        """Whether an operator lets updates be sent."""
        return self._state.is_learning

    @property
    def restore(self) -> tuple[str, str] | None:
        """The version that the worker is still to be told to go on from, and the id of the task that tells it."""
        state = self._state
        return (state.restore, state.restore_id) if state.restore is not None else None

    def publish(self, version: str, parent: str, *, task_id: str) -> bool:
        """Serve a version that was learned from `parent`; False when it is not to be: it serves already or was taken
        back, or another than its parent serves by now.

        Raises AuditUnavailable, and OSError when the pointer cannot be moved; then nothing has changed.
        """
        with self._lock:
            live = self._store_live()
            if version in (live, self.live) or version in self._state.withdrawn:
                return False
            try:
                if parent != live:
                    raise VersionConflict(f"{version} was learned from {parent}, but {live} serves")
                self._publish(version, live, task_id)
            except (VersionDamaged, UnknownVersion, VersionConflict) as error:
                self._troubles.note("not_published", type(error).__name__, str(error))
                self._demand_restore(live)
                return False
            except (AuditUnavailable, OSError):
                self._demand_restore(live)
                raise
            return True

    def roll_back(self, *, actor: str, reason: str) -> str:
        """Serve the version before; returns its name. Raises AuditUnavailable, OSError; then nothing has changed."""
        with self._lock:
            return self._take_back(self._served.previous(), actor, "rollback", reason)

    def reset(self, *, actor: str, reason: str) -> str:
        """Serve the shipped policy again; returns its name. Raises as `roll_back`."""
        with self._lock:
            return self._take_back(FROZEN, actor, "reset", reason)

    def check(self) -> bool:
        """Take the version back that serves, if audited items say that it does harm. Whether it was."""
        live = self.live
        if live == FROZEN or not self._evidence.is_harmful():
            return False
        try:
            self.roll_back(actor=ENGINE, reason="audited_items")
        except (AuditUnavailable, OSError) as error:
            self._troubles.note("not_rolled_back", type(error).__name__, f"{live} does harm, but {error}")
            return False
        return True

    def count(self, *, qualified: bool) -> None:
        """A candidate was measured."""
        self._counts["qualified" if qualified else "refused"] += 1

    def restored(self, restore_id: str) -> None:
        """The worker has done what this task told it. Raises OSError."""
        with self._lock:
            if self._state.restore_id == restore_id:
                self._write(self._state.model_copy(update={"restore": None, "restore_id": ""}))

    def set_learning(self, on: bool, *, actor: str) -> None:
        """Let updates be sent, or not. Raises AuditUnavailable, OSError; then nothing has changed."""
        with self._lock:
            self._trail.append(actor, "resume" if on else "suspend", reason="operator")
            self._write(self._state.model_copy(update={"is_learning": on}))

    def statistics(self) -> ReleaseStatistics:
        counts = self._counts
        return ReleaseStatistics(
            live=self.live,
            kept=tuple(self._store.published()),
            qualified=counts["qualified"],
            refused=counts["refused"],
            published=counts["published"],
            rollbacks=counts["rollback"],
            resets=counts["reset"],
        )

    def _publish(self, version: str, live: str, task_id: str) -> None:
        if version == FROZEN:  # the worker has dropped what it learned, and goes on from there already
            self._trail.append(ENGINE, "reset", version=live, reason="unqualified", task_id=task_id)
            self._go_back(live, FROZEN)
            self._counts["reset"] += 1
            return
        self._trail.append(ENGINE, "publish", version=version, reason="qualified", task_id=task_id)
        self._served.publish(live, version)
        self._counts["published"] += 1
        try:
            self._store.prune()
        except (OSError, VersionDamaged) as error:
            self._troubles.note("not_pruned", type(error).__name__, str(error))

    def _demand_restore(self, version: str) -> None:
        """The worker takes for served what is not: it is to be told what is."""
        if self._state.restore != version:
            self._state = self._state.model_copy(update=_restore_to(version))
            try:
                self._write(self._state)
            except OSError as error:
                self._troubles.note("releases_not_stored", "OSError", str(error))

    def _take_back(self, target: str, actor: str, action: Literal["rollback", "reset"], reason: str) -> str:
        live = self.live
        self._trail.append(actor, action, version=live, reason=reason)
        if live == FROZEN:
            return FROZEN
        self._go_back(self._store_live(), target, restore=True)
        self._counts[action] += 1
        return self.live

    def _go_back(self, live: str, target: str, *, restore: bool = False) -> None:
        """First in the store, so that a crash in between is a rollback too. What is in memory loads nothing."""
        withdrawn = [*self._state.withdrawn, live][-WITHDRAWN_MAX:]
        self._write(self._state.model_copy(update={"withdrawn": withdrawn, **(_restore_to(target) if restore else {})}))
        self._store.publish(live, target)
        while self.live != target:
            self._served.roll_back()
        try:
            self._evidence.distrust(live)
        except OSError as error:
            self._troubles.note("evidence_not_stored", "OSError", f"the weights of a rollback: {error}")

    def _store_live(self) -> str:
        try:
            return self._store.live()
        except VersionDamaged:
            return FROZEN

    def _read(self) -> _State:
        try:
            return _State.model_validate(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return _State()
        except (OSError, ValueError, ValidationError) as error:
            self._troubles.note("releases_lost", "damaged", f"{self._path}: {error}; learning is off until turned on")
            return _State(is_learning=False)

    def _write(self, state: _State) -> None:
        write_json(self._path, state.model_dump())
        self._state = state


def _restore_to(version: str) -> dict[str, str]:
    return {"restore": version, "restore_id": f"restore-{uuid.uuid4().hex}"}


__all__ = ["ENGINE", "WITHDRAWN_MAX", "Releases"]
