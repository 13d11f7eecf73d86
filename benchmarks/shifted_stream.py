"""A stream of digits that drifts, and a small network that was trained before it began; for benchmarks.online_stream.

Printed digits, 28 x 28, eight segments of corruption (noise, contrast, blur, rotation, twice), each rising and falling;
in the second half most digits of a session are the same. When poisoned, one client sends a tenth of the items: always
the same clean digit, and what it reports as the right answer is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, max_pool2d, relu

DIGITS = 10
SIDE = 28
BATCH = 16
NUM_BATCHES = 320
SEGMENTS = ("noise", "contrast", "blur", "rotation") * 2
SESSION_BATCHES = 8
SESSION_SHARE = 0.85
"""Share of a session's items, in the second half, that show its one digit."""

POISONED_SHARE = 0.1
POISONED_DIGIT = 3
NUM_CLIENTS = 20
POISONER = NUM_CLIENTS
TRAINING_STEPS = 300
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_PLAIN,
)

Images = NDArray[np.float32]  # N x 28 x 28
Integers = NDArray[np.int64]
Matrix = NDArray[np.float64]


class Network(nn.Module):
    """Three convolutions with group normalisation; `features` are what a k-NN or a head works on."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1)
            for before, after in ((1, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, width * factor) for factor in (1, 2, 4))
        self.head = nn.Linear(4 * width * 9, DIGITS)

    def features(self, images_NCHW: Tensor) -> Tensor:
        hidden = images_NCHW
        for layer, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            hidden = relu(norm(convolution(hidden)))
            if layer < 2:
                hidden = max_pool2d(hidden, 2)
        return adaptive_avg_pool2d(hidden, 3).flatten(1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        logits_NC: Tensor = self.head(self.features(images_NCHW))
        return logits_NC


@dataclass(frozen=True, slots=True)
class Stream:
    """Batches in order: images (T, 16, 1, 28, 28), right answers, answers as reported, and who sent them (T, 16)."""

    images: Tensor
    answers: Integers
    reported: Integers
    clients: Integers


def train_network(seed: int) -> Network:
    """On clean digits with a little noise, as every policy is trained on something other than what comes."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(TRAINING_STEPS):
        answers = rng.integers(0, DIGITS, 64)
        images = torch.from_numpy(_noisy(rng, draw_digits(rng, answers), 0.05))[:, None]
        loss = cross_entropy(network(images), torch.from_numpy(answers))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()


def make_stream(seed: int, *, is_poisoned: bool) -> Stream:
    """The same digits and corruptions for the same seed; poisoning replaces the poisoner's items only."""
    rng = np.random.default_rng([seed, 7])
    images, answers = [], []
    session = 0
    per_segment = NUM_BATCHES // len(SEGMENTS)
    for batch in range(NUM_BATCHES):
        severity = float(np.sin(np.pi * (batch % per_segment + 0.5) / per_segment))
        truth = rng.integers(0, DIGITS, BATCH)
        if batch >= NUM_BATCHES // 2:
            if batch % SESSION_BATCHES == 0:
                session = int(rng.integers(DIGITS))
            truth = np.where(rng.random(BATCH) < SESSION_SHARE, session, truth)
        images.append(corrupt(rng, draw_digits(rng, truth), SEGMENTS[batch // per_segment], severity))
        answers.append(truth)
    answers_TN = np.stack(answers)
    who = np.random.default_rng([seed, 8])
    clients = who.integers(0, NUM_CLIENTS, answers_TN.shape)
    clients[who.random(answers_TN.shape) < POISONED_SHARE] = POISONER
    reported = answers_TN.copy()
    if is_poisoned:
        for batch, item in zip(*np.nonzero(clients == POISONER), strict=True):
            images[batch][item] = draw_digits(who, np.array([POISONED_DIGIT]))[0]
            answers_TN[batch, item] = POISONED_DIGIT
            reported[batch, item] = (POISONED_DIGIT + 5) % DIGITS
    return Stream(torch.from_numpy(np.stack(images))[:, :, None], answers_TN, reported, clients)


@torch.no_grad()
def outputs(network: Network, stream: Stream) -> Iterator[tuple[Matrix, Matrix]]:
    """Of each batch the logits (16, C) and the features (16, D)."""
    for images in stream.images:
        features = network.features(images)
        yield network.head(features).double().numpy(), features.double().numpy()


def draw_digits(rng: np.random.Generator, digits_N: Integers) -> Images:
    """White on black in [0, 1], each in another of five typefaces, moved, scaled and turned a little."""
    drawn = np.zeros((len(digits_N), SIDE, SIDE), np.float32)
    for index, digit in enumerate(digits_N):
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        font = FONTS[rng.integers(len(FONTS))]
        scale = rng.uniform(0.7, 0.95) * (1.6 if font == cv2.FONT_HERSHEY_PLAIN else 1)
        (width, height), _ = cv2.getTextSize(str(digit), font, scale, 2)
        origin = (int(14 - width / 2 + rng.integers(-2, 3)), int(14 + height / 2 + rng.integers(-2, 3)))
        grey, thickness = int(rng.integers(180, 256)), int(rng.integers(1, 3))
        cv2.putText(canvas, str(digit), origin, font, scale, (grey,), thickness, cv2.LINE_AA)
        drawn[index] = _turned(canvas.astype(np.float32) / np.float32(255), rng.uniform(-8, 8), rng.uniform(0.9, 1.1))
    return drawn


def corrupt(rng: np.random.Generator, images_N: Images, kind: str, severity: float) -> Images:
    """`severity` in [0, 1]."""
    if kind == "noise":
        return _noisy(rng, images_N, 0.08 + 0.3 * severity)
    if kind == "contrast":
        faded: Images = (images_N - 0.5) * (1 - 0.72 * severity) + 0.5 + 0.15 * severity
    elif kind == "blur":
        faded = np.stack([cv2.GaussianBlur(image, (0, 0), 0.3 + 1.3 * severity) for image in images_N])
    else:
        faded = np.stack([_turned(image, 8 + 32 * severity, 1.0) for image in images_N])
    return _noisy(rng, faded.astype(np.float32), 0.05)


def _turned(image: Images, degrees: float, scale: float) -> Images:
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), degrees, scale)
    return np.asarray(cv2.warpAffine(image, matrix, (SIDE, SIDE)), np.float32)


def _noisy(rng: np.random.Generator, images_N: Images, deviation: float) -> Images:
    return images_N + rng.normal(0, deviation, images_N.shape).astype(np.float32)
