"""Sampling that does not depend on who else is in the batch.

The random number of a token is a function of (seed, step, prompt id, sample, turn, position) alone: a counter-based
generator (Salmon et al., SC 2011) in place of a stream that is drawn from in the order of the batch. So neither the
number of rows, nor which of them are decoded together, nor a resumed run changes what is sampled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_AHEAD = 64
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class RolloutKey:
    """What the samples of a round of rollouts depend on, beside weights and prompts."""

    seed: int
    step: int


def row_key(key: RolloutKey, prompt_id: str, sample: int) -> int:
    """The 64-bit key of one rollout."""
    text = f"{key.seed}\0{key.step}\0{sample}\0{prompt_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def uniforms(keys: NDArray[np.uint64], turns: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each row's key, turn and position within the turn (SplitMix64's finalizer, twice)."""
    counter = _mixed((turns << np.uint64(32)) + positions + np.uint64(1))
    return (_mixed(keys ^ counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Draws:
    """The random numbers of one rollout, token by token; made a block ahead, which costs as much as one."""

    def __init__(self, key: int) -> None:
        self.key = key
        self._block: tuple[int, int] | None = None
        self._numbers: list[float] = []

    def at(self, turn: int, position: int) -> float:
        """The number in [0, 1) of the token at `position` of turn `turn`."""
        number, place = divmod(position, _AHEAD)
        if self._block != (turn, number):
            self._block = (turn, number)
            positions = np.arange(number * _AHEAD, (number + 1) * _AHEAD, dtype=np.uint64)
            key, turns = np.uint64(self.key), np.full(_AHEAD, turn, dtype=np.uint64)
            self._numbers = uniforms(np.full(_AHEAD, key), turns, positions).tolist()
        return self._numbers[place]


def sample_tokens(
    logits_RV: torch.Tensor, temperature: float, top_p: float, uniform_R: NDArray[np.float64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64[R] and their log-probabilities float32[R].

    The log-probability is that of the distribution at `temperature` before `top_p` cuts it, which is the one that the
    update compares with. Temperature 0 takes the likeliest token and reports it at temperature 1.
    """
    logprobs = torch.log_softmax(logits_RV.float() / (temperature or 1.0), dim=-1)
    if temperature == 0.0:
        tokens = logits_RV.argmax(dim=-1)
    else:
        probabilities = logprobs.exp()
        if top_p < 1.0:
            probabilities = _nucleus(probabilities, top_p)
        cumulated = probabilities.double().cumsum(dim=-1)
        chosen = torch.from_numpy(uniform_R).to(cumulated.device)[:, None] * cumulated[:, -1:]
        tokens = torch.searchsorted(cumulated, chosen, right=True)[:, 0].clamp_(max=logits_RV.shape[1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def certainty(logits_RV: torch.Tensor, tokens_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the tokens and entropies of their distributions in nats, float32[R], at temperature 1."""
    logprobs = torch.log_softmax(logits_RV.float(), dim=-1)
    return logprobs.gather(1, tokens_R[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(dim=-1)


def _nucleus(probabilities_RV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero outside the smallest set of tokens that holds `top_p` of the probability (arXiv 1904.09751)."""
    ordered, order = probabilities_RV.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return probabilities_RV.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), 0.0)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        values = values * _GOLDEN + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * _FIRST
        values = (values ^ (values >> np.uint64(27))) * _SECOND
        return values ^ (values >> np.uint64(31))


__all__ = ["Draws", "RolloutKey", "certainty", "row_key", "sample_tokens", "uniforms"]
