"""The drifting stream, answered as the service would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.served_stream import Service
from benchmarks.shifted_stream import BATCH, DIGITS, Network, Stream, outputs

NUM_BATCHES = 12


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def stream(network: Network) -> Stream:
    """Noise, whose right answers are always the one after that of the network."""
    images = torch.rand(NUM_BATCHES, BATCH, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    blank = np.zeros((NUM_BATCHES, BATCH), np.int64)
    unanswered = Stream(images, blank, blank, blank)
    said = np.stack([logits_NC.argmax(axis=1) for logits_NC, _ in outputs(network, unanswered)])
    right = (said + 1) % DIGITS
    clients = np.arange(NUM_BATCHES * BATCH).reshape(blank.shape) % 7
    return Stream(images, right, said, clients)


def test_without_audits_every_answer_is_the_frozen_networks(network: Network, stream: Stream) -> None:
    service = Service(network, 0.0, seed=0)
    assert not service.run(stream).any()
    assert service.counts == {"frozen": NUM_BATCHES * BATCH}
    frozen, told = service.calibration()
    assert told == pytest.approx(frozen), "nothing was learned of its confidence either"


def test_what_audited_items_speak_for_answers(network: Network, stream: Stream) -> None:
    service = Service(network, 0.5, seed=0)
    right = service.run(stream)
    assert service.counts["adapted"] + service.counts["memory"] > 0
    assert not right[0].any()
    assert right[-4:].mean() > 0.7
    frozen, told = service.calibration()
    assert told < frozen


def test_reviewers_who_believe_what_is_wrong_keep_it_as_it_is(network: Network, stream: Stream) -> None:
    assert not Service(network, 0.5, seed=0, are_reviewers_fooled=True).run(stream).any()
