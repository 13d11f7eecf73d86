"""Does learning from a drifting stream help, and can it harm? `python -m benchmarks.online_stream`

Prequential: each item is predicted first and may be learned from afterwards. Beside ours, in the same run: the frozen
network, TENT (Wang et al. 2021), an EATA-like filter (Niu et al. 2022), the same with a periodic reset (RDumb, Press et
al. 2023) and naive self-training. Ours alone is given audited answers; the others need none, and cannot know when they
are wrong. `as served` is what the service does (benchmarks.served_stream). `soft mixture` is an upper reference, and
not what it does: experts that need a closed set of answers and their probabilities, all of them asked about every item,
half of the audits picked where it is unsure.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, softmax
from tqdm import tqdm

from benchmarks.served_stream import Service
from benchmarks.shifted_stream import (
    BATCH,
    DIGITS,
    NUM_BATCHES,
    POISONER,
    Network,
    Stream,
    make_stream,
    outputs,
    train_network,
)
from benchmarks.stream_experts import ResidualHead, SessionPrior
from share.kernel.adaptation.arbiter import Arbiter
from share.kernel.adaptation.calibration import calibration_error

WINDOW = 640
ENTROPY_MAX = 0.4 * float(np.log(DIGITS))
REDUNDANCY_MAX = 0.4
RESET_BATCHES = 80
PRIOR = {"frozen": 0.75, "residual": 0.10, "neighbors": 0.05, "residual in session": 0.10}
CLIENT_SHARE_MAX = 0.05
"""Share of all audited items that one client may have, once there are enough of them."""

TEMPERATURES = np.geomspace(0.05, 20.0, 121)

Matrix = NDArray[np.float64]
Right = NDArray[np.bool_]  # T x 16
Method = Callable[[Network, Stream, int], Right]


@dataclass(frozen=True, slots=True)
class Gap:
    """Accuracy against the frozen network, in points: at the end, worst running mean, worst window."""

    gain: float
    cumulative: float
    window: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_stream", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--audited", type=float, nargs="+", default=[0.02, 0.05], help="shares of audited items")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, list[Gap]] = {}
    poisoned: dict[tuple[str, bool], list[float]] = {}
    calibration: dict[str, list[tuple[float, float]]] = {}
    learners: dict[str, type[Service] | type[Learner]] = {"as served": Service, "soft mixture": Learner}
    baselines: dict[str, Method] = {
        "TENT": tent,
        "EATA-like filter": eata_like,
        "EATA-like, periodic reset": periodic_reset,
        "naive self-training": naive,
    }
    steps = tqdm(total=len(options.seeds) * (len(baselines) + 3 * len(learners) * len(options.audited)), desc="streams")
    for seed in options.seeds:
        network = train_network(seed)
        clean, dirty = make_stream(seed, is_poisoned=False), make_stream(seed, is_poisoned=True)
        reference = frozen(network, clean, seed)
        rows.setdefault("frozen, accuracy", []).append(Gap(100 * reference.mean(), 0.0, 0.0))
        for name, method in baselines.items():
            rows.setdefault(name, []).append(_gap(method(copy.deepcopy(network), clean, seed), reference))
            steps.update()
        for (kind, learner), share in product(learners.items(), options.audited):
            name = f"{kind}, {share:.0%} audited"
            ours = learner(network, share, seed)
            right = ours.run(clean)
            calibration.setdefault(name, []).append(ours.calibration())
            rows.setdefault(name, []).append(_gap(right, reference))
            steps.update()
            others = clean.clients != POISONER
            for are_fooled in (False, True):
                harmed = learner(network, share, seed, are_reviewers_fooled=are_fooled).run(dirty)
                harm = 100 * (harmed[others].mean() - right[others].mean())
                poisoned.setdefault((name, are_fooled), []).append(harm)
                steps.update()
    steps.close()
    _print(rows, poisoned, calibration)
    return 0


class Learner:
    """The experts and their arbiter over one stream."""

    def __init__(self, network: Network, audited: float, seed: int, *, are_reviewers_fooled: bool = False) -> None:
        self._network = network
        self._audited = audited
        self._are_reviewers_fooled = are_reviewers_fooled
        self._rng = np.random.default_rng([seed, 11])
        self._arbiter = Arbiter(PRIOR)
        self._residual = ResidualHead(network.head.in_features, DIGITS)
        self._session = SessionPrior()
        self._neighbors = Neighbors()
        self._audits_of: Counter[int] = Counter()
        self._confidences: list[tuple[float, float, bool, bool]] = []

    def run(self, stream: Stream) -> Right:
        right = np.zeros(stream.answers.shape, bool)
        owed = 0.0
        seen_mixed: list[Matrix] = []
        seen_answers: list[int] = []
        temperature = 1.0
        for batch, (logits_NC, features_ND) in enumerate(outputs(self._network, stream)):
            plain = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
            plain /= plain.sum(axis=1, keepdims=True)
            clients = stream.clients[batch]
            residual = self._residual.predict(logits_NC, features_ND)
            neighbors = self._neighbors.predict(plain, features_ND, batch)
            opinions_ENC = np.stack([plain, residual, neighbors, self._session.correct(residual, clients)])
            mixed = self._arbiter.mix(opinions_ENC)
            answers = stream.answers[batch]
            right[batch] = mixed.argmax(axis=1) == answers
            stated = _tempered(mixed, temperature).max(axis=1)
            self._confidences += zip(
                plain.max(axis=1), stated, right[batch], plain.argmax(axis=1) == answers, strict=True
            )
            owed += self._audited * BATCH
            chosen = self._choose(mixed, clients, int(owed))
            owed -= int(owed)
            if not chosen:
                continue
            reported = (stream.reported if self._are_reviewers_fooled else stream.answers)[batch, chosen]
            for item, answer in zip(chosen, reported, strict=True):
                self._arbiter.learn(opinions_ENC[:, item].argmax(axis=1) != answer)
            self._residual.learn(logits_NC[chosen], features_ND[chosen], reported, batch * BATCH)
            self._neighbors.learn(features_ND[chosen], reported, batch)
            seen_mixed.append(mixed[chosen])
            seen_answers += reported.tolist()
            temperature = _fit_temperature(np.concatenate(seen_mixed), np.array(seen_answers))
        return right

    def calibration(self) -> tuple[float, float]:
        """Expected calibration error of the frozen network and of ours."""
        frozen_sure, sure, right, frozen_right = (np.array(column) for column in zip(*self._confidences, strict=True))
        return (
            calibration_error(frozen_sure, frozen_right.astype(bool)),
            calibration_error(sure, right.astype(bool)),
        )

    def _choose(self, mixed: Matrix, clients: NDArray[np.int64], count: int) -> list[int]:
        """Half at random, whatever they look like; half the most uncertain. No client gets more than its share."""
        entropy = -(mixed * np.log(np.maximum(mixed, 1e-12))).sum(axis=1)
        chosen: list[int] = []
        for _ in range(count):
            total = sum(self._audits_of.values())
            cap = max(1.0, CLIENT_SHARE_MAX * total)
            free = [i for i in range(len(mixed)) if i not in chosen and self._audits_of[int(clients[i])] < cap]
            if not free:
                break
            is_random = self._rng.random() < 0.5
            item = int(self._rng.choice(free)) if is_random else max(free, key=lambda i: entropy[i])
            self._audits_of[int(clients[item])] += 1
            chosen.append(item)
        return chosen


class Neighbors:
    """Votes of audited items by cosine, the recent ones weighing more; what the experience buffer does for a policy."""

    def __init__(self, *, sharpness: float = 0.06, half_life_batches: float = 125.0) -> None:
        self._sharpness, self._half_life = sharpness, half_life_batches
        self._features: list[Matrix] = []
        self._answers: list[int] = []
        self._batches: list[int] = []

    def predict(self, plain_NC: Matrix, features_ND: Matrix, batch: int) -> Matrix:
        if not self._features:
            return plain_NC
        similarity = _unit(features_ND) @ np.concatenate(self._features).T
        recency = 0.5 ** ((batch - np.array(self._batches)) / self._half_life)
        votes = (np.exp((similarity - 1) / self._sharpness) * recency) @ np.eye(DIGITS)[self._answers] + 0.02 * plain_NC
        return np.asarray(votes / votes.sum(axis=1, keepdims=True))

    def learn(self, features_ND: Matrix, answers_N: NDArray[np.int64], batch: int) -> None:
        self._features.append(_unit(features_ND))
        self._answers += answers_N.tolist()
        self._batches += [batch] * len(answers_N)


def frozen(network: Network, stream: Stream, seed: int) -> Right:
    own = np.stack([logits.argmax(axis=1) for logits, _ in outputs(network, stream)])
    return np.asarray(own == stream.answers)


def tent(network: Network, stream: Stream, seed: int) -> Right:
    return _entropy_minimised(network, stream, is_filtered=False, reset=0)


def eata_like(network: Network, stream: Stream, seed: int) -> Right:
    return _entropy_minimised(network, stream, is_filtered=True, reset=0)


def periodic_reset(network: Network, stream: Stream, seed: int) -> Right:
    return _entropy_minimised(network, stream, is_filtered=True, reset=RESET_BATCHES)


def naive(network: Network, stream: Stream, seed: int) -> Right:
    """Every own answer is taken for right."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    right = []
    for images, answers in zip(stream.images, stream.answers, strict=True):
        logits = network(images)
        own = logits.argmax(dim=1)
        right.append(own.numpy() == answers)
        _step(optimizer, cross_entropy(logits, own))
    return np.stack(right)


def _entropy_minimised(network: Network, stream: Stream, *, is_filtered: bool, reset: int) -> Right:
    start = copy.deepcopy(network.state_dict())
    affine = [
        parameter for norm in network.modules() if isinstance(norm, nn.GroupNorm) for parameter in norm.parameters()
    ]
    optimizer = torch.optim.Adam(affine, 1e-3)
    mean: Tensor | None = None
    right = []
    for batch, (images, answers) in enumerate(zip(stream.images, stream.answers, strict=True)):
        if reset and batch and batch % reset == 0:
            network.load_state_dict(start)
            optimizer = torch.optim.Adam(affine, 1e-3)
            mean = None
        logits = network(images)
        right.append(logits.argmax(dim=1).numpy() == answers)
        outputs = softmax(logits, dim=1)
        entropy = -(outputs * outputs.clamp_min(1e-12).log()).sum(dim=1)
        weights = torch.ones_like(entropy)
        if is_filtered:
            sure = entropy.detach() < ENTROPY_MAX
            if mean is not None:
                sure &= (normalize(outputs.detach()) @ normalize(mean, dim=0)).abs() < REDUNDANCY_MAX
            if not sure.any():
                continue
            current = outputs.detach()[sure].mean(dim=0)
            mean = current if mean is None else 0.9 * mean + 0.1 * current
            weights = sure * torch.exp(ENTROPY_MAX - entropy.detach())
        _step(optimizer, (weights * entropy).sum() / max(int((weights > 0).sum()), 1))
    return np.stack(right)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _unit(features_ND: Matrix) -> Matrix:
    return np.asarray(features_ND / np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12))


def _gap(right: Right, reference: Right) -> Gap:
    difference = 100 * (right.ravel().astype(float) - reference.ravel())
    running = np.cumsum(difference) / np.arange(1, len(difference) + 1)
    windows = np.convolve(difference, np.full(WINDOW, 1 / WINDOW), "valid")
    return Gap(float(difference.mean()), float(running[WINDOW - 1 :].min()), float(windows.min()))


def _tempered(probabilities_NC: Matrix, temperature: float) -> Matrix:
    """Probabilities with their logarithms divided by `temperature`; above 1 they become less sure."""
    logs = np.log(np.maximum(probabilities_NC, 1e-12)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _fit_temperature(probabilities_NC: Matrix, answers_N: NDArray[np.int64], *, prior_items: float = 10.0) -> float:
    """The temperature under which the audited answers were likeliest (Guo et al. 2017, arXiv:1706.04599).

    `prior_items` is how many items' worth of evidence stands for leaving it at 1, so that it moves gradually.
    """
    rows = np.arange(len(answers_N))
    losses = []
    for temperature in TEMPERATURES:
        likelihood = _tempered(probabilities_NC, float(temperature))[rows, answers_N]
        losses.append(-np.log(np.maximum(likelihood, 1e-12)).sum() + prior_items * np.log(temperature) ** 2 / 2)
    return float(TEMPERATURES[int(np.argmin(losses))])


def _print(
    rows: dict[str, list[Gap]],
    poisoned: dict[tuple[str, bool], list[float]],
    calibration: dict[str, list[tuple[float, float]]],
) -> None:
    print(f"{NUM_BATCHES * BATCH} items, second half of each stream label-correlated; points against frozen.")
    print(
        "worst gain, cumulative, window: worst of the seeds; poisoned, fooled: mean against the clean stream when one"
    )
    print("key sends a tenth of the items, and when reviewers also believe its wrong answers")
    print(f"{'':28}{'mean gain':>10}{'worst gain':>12}{'cumulative':>12}{'window':>9}{'poisoned':>10}{'fooled':>10}")
    for name, gaps in rows.items():
        if name.startswith("frozen"):
            print(f"{name:28}{np.mean([gap.gain for gap in gaps]):10.1f}")
            continue
        harm = "".join(
            f"{np.mean(poisoned[name, fooled]):+10.1f}" for fooled in (False, True) if (name, fooled) in poisoned
        )
        print(
            f"{name:28}{np.mean([gap.gain for gap in gaps]):+10.1f}{min(gap.gain for gap in gaps):+12.1f}"
            f"{min(gap.cumulative for gap in gaps):+12.2f}{min(gap.window for gap in gaps):+9.2f}{harm}"
        )
    for name, errors in calibration.items():
        before, after = (float(np.mean(values)) for values in zip(*errors, strict=True))
        print(f"{name}: expected calibration error {after:.3f}, frozen {before:.3f} ({after / before:.2f}x)")


if __name__ == "__main__":
    raise SystemExit(main())
