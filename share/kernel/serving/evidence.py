"""What audited items say of each expert: weights, calibration, and whether the adapted policy does harm. Durable.

Only items of the random share count, because only they are like the stream. A file is written whole and synced before
an item counts, and names the reviews that it has in it, so that none counts twice whatever is killed.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from share.kernel.adaptation.arbiter import Arbiter, sign_test
from share.kernel.adaptation.calibration import Calibration, calibration_error, fit_calibration
from share.kernel.adaptation.review import DAY_S
from share.kernel.contracts.serving import Expert
from share.kernel.errors import ConfigError
from share.kernel.events import StructuredLogger
from share.kernel.files import write_json
from share.kernel.serving.engine_config import EngineConfig
from share.kernel.serving.statistics import EvidenceStatistics, ExpertStatistics

EXPERTS: tuple[Expert, ...] = ("frozen", "adapted", "memory")

NEWEST = 64
"""Audited items, the newest, on which the adapted policy is found harmful."""

LATEST = 16
"""Audited items, the newest of all, on which the adapted policy must not have lost more than it won in order to answer:
it is believed slowly and doubted at once."""

TAKEN_BACK_MAX = 100
"""Versions of which it is remembered that they were taken back, so that reviews of them that come late do not count
against those that serve since."""


@dataclass(frozen=True, slots=True)
class Audit:
    """An item of the random share that a person has judged.

    `given` is the expert whose answer was given; `confidence` what it stated, `stated` what the client was told.
    `frozen`, `adapted` and `memory` say whether each expert's own answer was right: None where that is not known.
    `is_whole` when each of them was asked; else it says nothing of who is better. `version` is that of the adapted
    policy, `at` in seconds since 1970.
    """

    given: Expert
    confidence: float
    stated: float
    frozen: bool | None
    adapted: bool | None
    memory: bool | None
    is_whole: bool
    version: str
    at: float

    @property
    def was_right(self) -> bool:
        """Of the answer that was given; a judged answer is never unknown."""
        return bool(getattr(self, self.given))


@dataclass(frozen=True, slots=True)
class _View:
    """What answering looks at; replaced as a whole."""

    weights: Mapping[Expert, float]
    audits: int
    calibrations: Mapping[str, Calibration]
    records: Mapping[Expert, tuple[int, int]]
    policy: Expert
    memory_leads: Mapping[Expert, bool]


class Evidence:
    """The evidence in one file. Thread-safe; reading waits for nobody.

    A file that cannot be read is as good as none, and logged: without evidence the frozen policy answers.
    """

    def __init__(
        self,
        path: Path,
        config: EngineConfig,
        logger: StructuredLogger,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._arbiter = Arbiter({name: getattr(config.prior, name) for name in EXPERTS})
        self._window: deque[Audit] = deque(maxlen=config.evidence_window)
        self._counted: dict[str, None] = {}  # reviews that are in it and not settled yet
        self._named: frozenset[str] = frozenset()  # those that the file names, some of them settled
        self._num_past = 0  # audits of the window, the oldest, that were before the last version was taken back
        self._taken_back: deque[str] = deque(maxlen=TAKEN_BACK_MAX)
        try:
            self._load()
        except (ValueError, TypeError, KeyError, ConfigError) as error:
            logger.error("evidence_lost", f"{path}: cannot be used, the frozen policy answers: {error}")
            self._arbiter = Arbiter({name: getattr(config.prior, name) for name in EXPERTS})
            self._window.clear()
            self._counted.clear()
            self._taken_back.clear()
            self._num_past = 0
        self._view = self._looked()

    @property
    def weights(self) -> Mapping[Expert, float]:
        """Weight of each expert; they sum to one."""
        return self._view.weights

    @property
    def policy(self) -> Expert:
        """Which of the two policies answers: the adapted one where it was clearly better on the audited items since a
        version was taken back, and not worse lately."""
        return self._view.policy

    def record_of(self, expert: Expert) -> tuple[int, int]:
        """How many items of the window are known of this expert, and how many of these it got right."""
        return self._view.records[expert]

    def overrules(self, ran: Expert, trust: float, *, are_one: bool) -> bool:
        """Whether the memory's answer is given where it differs from that of the policy that ran.

        It has to have been clearly right more often where audited items told the two apart, for it is of another mind
        mostly where nobody knows. Its weight counts by `trust`; what it lacks is the policy's. Two policies of one
        version (`are_one`) are of one mind; else only the one that ran has a say, for what the other thinks is not
        known.
        """
        view = self._view
        if not view.memory_leads[ran]:
            return False
        memory = trust * view.weights["memory"]
        return memory > (1.0 - view.weights["memory"] if are_one else view.weights[ran])

    def calibrated(self, given: Expert, confidence: float) -> float:
        """The probability of being right, of one that was stated with an answer of this expert."""
        return self._view.calibrations[_voice(given)](confidence)

    def has(self, review_id: str) -> bool:
        """Whether this review has counted and is not settled."""
        return review_id in self._counted

    def record(self, review_id: str, audit: Audit | None) -> None:
        """Count a decided review that has not counted. None is one outside the random share.

        Durable at return. Raises OSError when it is not, and then it has not counted.
        """
        assert review_id not in self._counted, "a review counts once"
        with self._lock:
            before = self._arbiter.state(), list(self._window), self._num_past
            if audit is not None:
                self._learn(audit)
            self._counted[review_id] = None
            try:
                self._store()
            except BaseException:
                self._arbiter.restore(before[0])
                self._window = deque(before[1], maxlen=self._window.maxlen)
                self._num_past = before[2]
                del self._counted[review_id]
                raise
            self._view = self._looked()

    def keep_only(self, review_ids: Collection[str]) -> None:
        """Of the reviews that counted, only these are not settled yet."""
        with self._lock:
            self._counted = {each: None for each in self._counted if each in review_ids}

    def settled(self, review_id: str) -> None:
        """The review is never told again. Takes effect on disk with the next one that counts."""
        with self._lock:
            self._counted.pop(review_id, None)

    def erase(self, review_ids: Collection[str]) -> None:
        """Name these reviews no more, in the file neither. What they showed stays: it leads to nobody.

        Raises OSError when the file still names one; then it is to be asked for again.
        """
        with self._lock:
            self._counted = {each: None for each in self._counted if each not in review_ids}
            if not self._named.isdisjoint(review_ids):
                self._store()

    def distrust(self, version: str) -> None:
        """This version was taken back: what speaks for the adapted policy and against it is gone, and its weight is at
        most that of the prior.

        Raises OSError when it cannot be stored; it holds nevertheless until the engine ends.
        """
        with self._lock:
            state = self._arbiter.state()
            prior = self._config.prior
            most = prior.adapted / (prior.frozen + prior.adapted + prior.memory)
            spare = max(0.0, state["adapted"] - most)
            self._arbiter.restore({**state, "adapted": state["adapted"] - spare, "frozen": state["frozen"] + spare})
            self._num_past = len(self._window)
            self._taken_back.append(version)
            self._view = self._looked()
            self._store()

    def is_harmful(self) -> bool:
        """Whether the adapted policy has clearly lost against the frozen one on the newest items that judged both.

        Whatever version it was: each goes on from the one before, and seldom serves long enough to be judged by itself.
        What was before the last one was taken back does not count.
        """
        with self._lock:
            won, lost = _told_apart(self._judged()[-NEWEST:], "adapted", "frozen")
        return self._is_clear(lost, won)

    def expire(self) -> None:
        """Drop what is older than is kept, and the names of what is settled. Raises OSError."""
        oldest = self._clock() - self._config.retention_days * DAY_S
        with self._lock:
            kept = [each for each in self._window if each.at > oldest]
            is_settled = not self._named <= self._counted.keys()
            if len(kept) < len(self._window) or is_settled:
                self._num_past = max(0, self._num_past - (len(self._window) - len(kept)))
                self._window = deque(kept, maxlen=self._window.maxlen)
                self._view = self._looked()
                self._store()

    def statistics(self) -> EvidenceStatistics:
        with self._lock:
            window = list(self._window)
        view = self._view
        experts = {name: ExpertStatistics(view.weights[name], *view.records[name]) for name in EXPERTS}
        was_right = np.array([each.was_right for each in window], bool)
        errors = [
            calibration_error(np.array([getattr(each, field) for each in window]), was_right) if window else None
            for field in ("confidence", "stated")
        ]
        return EvidenceStatistics(view.audits, experts, view.calibrations, errors[0], errors[1])

    def _learn(self, audit: Audit) -> None:
        """Whose answer is not known to be wrong is taken for right if it is the frozen policy, for wrong if not: what
        is not known never speaks against the frozen policy."""
        if len(self._window) == self._window.maxlen:
            self._num_past = max(0, self._num_past - 1)
        self._window.append(audit)
        if audit.is_whole:
            self._arbiter.learn(np.array([audit.frozen is False, audit.adapted is not True, audit.memory is not True]))

    def _looked(self) -> _View:
        weights = self._arbiter.weights
        calibrations = {}
        for voice in ("policy", "memory"):
            heard = [each for each in self._window if _voice(each.given) == voice]
            was_right_N = np.array([each.was_right for each in heard], bool)
            calibrations[voice] = fit_calibration(np.array([each.confidence for each in heard], float), was_right_N)
        records: dict[Expert, tuple[int, int]] = {}
        for name in EXPERTS:
            known = [getattr(each, name) for each in self._window if getattr(each, name) is not None]
            records[name] = len(known), sum(known)
        return _View(
            {name: weights[name] for name in EXPERTS},
            self._arbiter.audits,
            calibrations,
            records,
            policy="adapted" if self._adapted_leads() else "frozen",
            memory_leads={name: self._is_clear(*_told_apart(self._window, "memory", name)) for name in EXPERTS},
        )

    def _judged(self) -> list[Audit]:
        """What speaks for the adapted policy or against it."""
        newest = list(self._window)[self._num_past :]
        return [each for each in newest if each.version not in self._taken_back]

    def _adapted_leads(self) -> bool:
        judged = self._judged()
        won, lost = _told_apart(judged[-LATEST:], "adapted", "frozen")
        return won >= lost and self._is_clear(*_told_apart(judged, "adapted", "frozen"))

    def _is_clear(self, won: int, lost: int) -> bool:
        """Whether of two who are equally good one would seldom win so clearly: a one-sided sign test."""
        return won > lost and sign_test(lost, won) <= self._config.harm_probability

    def _load(self) -> None:
        if not self._path.exists():
            return
        told: dict[str, Any] = json.loads(self._path.read_bytes())
        self._arbiter.restore(told["experts"])
        self._window.extend(Audit(**each) for each in told["window"])
        self._counted = dict.fromkeys(told["counted"])
        self._named = frozenset(self._counted)
        self._num_past = int(told.get("num_past", 0))
        self._taken_back.extend(told.get("taken_back", ()))

    def _store(self) -> None:
        content = {
            "experts": self._arbiter.state(),
            "counted": list(self._counted),
            "num_past": self._num_past,
            "taken_back": list(self._taken_back),
            "window": [asdict(each) for each in self._window],
        }
        write_json(self._path, content)
        self._named = frozenset(self._counted)


def _told_apart(audits: Iterable[Audit], first: Expert, second: Expert) -> tuple[int, int]:
    """On how many items the first alone was right, and on how many the second alone; who was not asked is neither."""
    pairs = [(getattr(each, first), getattr(each, second)) for each in audits]
    return pairs.count((True, False)), pairs.count((False, True))


def _voice(given: Expert) -> str:
    """Confidences of the two policies are of one make, those of the vote of another."""
    return "memory" if given == "memory" else "policy"


__all__ = ["EXPERTS", "LATEST", "NEWEST", "TAKEN_BACK_MAX", "Audit", "Evidence"]
