"""Each loss is compared with TRL's own on the same model, tokens and advantages."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from share.kernel.policy.losses import UpdateSize, Variant, policy_loss

ROWS, PROMPT, COMPLETION, VOCABULARY = 6, 5, 9, 37


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def batch(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Completions of different lengths with a stretch that the policy did not write, and logs of two other policies."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([9, 4, 7, 2, 9, 6])
    present = torch.arange(COMPLETION) < lengths[:, None]
    ids = torch.randint(2, VOCABULARY, (ROWS, PROMPT + COMPLETION), generator=generator)
    ids[:, PROMPT:][~present] = 0
    written = torch.ones(ROWS, COMPLETION, dtype=torch.long)
    written[0, 3:6] = 0
    written[4, 1:3] = 0
    batch = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": torch.ones(ROWS, PROMPT, dtype=torch.long),
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": present.long(),
        "tool_mask": written,
        "advantages": torch.tensor([1.2, -0.7, 0.4, -1.5, 0.9, -0.3]),
    }
    with torch.no_grad():
        logprobs, _ = policy_logprobs(model, batch)
    noise = torch.randn(2, ROWS, COMPLETION, generator=generator)
    batch["old_per_token_logps"] = logprobs + 0.3 * noise[0]
    batch["ref_per_token_logps"] = logprobs + 0.3 * noise[1]
    batch["num_items_in_batch"] = (batch["completion_mask"] * written).sum()
    return batch


def policy_logprobs(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, PROMPT - 1 : -1]
    every = torch.log_softmax(logits, dim=-1)
    return every.gather(2, batch["completion_ids"][..., None])[..., 0], -(every.exp() * every).sum(-1)


def trl_loss(model: Any, batch: dict[str, torch.Tensor], directory: Path, **settings: Any) -> torch.Tensor:
    """TRL's own `_compute_loss`, called as its trainer calls it."""
    trl = pytest.importorskip("trl", reason="TRL is the oracle of these tests")
    from accelerate import Accelerator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL sets an option that transformers has renamed
        args = trl.GRPOConfig(str(directory), use_cpu=True, report_to=[], max_completion_length=COMPLETION, **settings)
    trainer = trl.GRPOTrainer.__new__(trl.GRPOTrainer)
    trainer.__dict__ |= {
        "args": args,
        "model": model.train(),
        "accelerator": Accelerator(cpu=True),
        "loss_type": args.loss_type,
        "importance_sampling_level": args.importance_sampling_level,
        "beta": args.beta,
        "epsilon_low": args.epsilon,
        "epsilon_high": args.epsilon_high if args.epsilon_high is not None else args.epsilon,
        "temperature": 1.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "aux_loss_enabled": False,
        "use_vllm": False,
        "use_adaptive_entropy": False,
        "entropy_coef": args.entropy_coef,
        "_entropy_bonus_enabled": args.entropy_coef != 0.0,
        "max_completion_length": COMPLETION,
        "current_gradient_accumulation_steps": 1,
        "model_kwarg_keys": set(),
        "_metrics": {"train": _Lists()},
    }
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (*policy_logprobs(model, batch), None)
    loss: torch.Tensor = trainer._compute_loss(model, batch)
    model.eval()
    return loss


class _Lists(dict[str, list[Any]]):
    def __missing__(self, key: str) -> list[Any]:
        return self.setdefault(key, [])


def our_loss(model: Any, batch: dict[str, torch.Tensor], variant: Variant, parts: int = 1, **settings: Any) -> Any:
    logprobs, entropies = policy_logprobs(model, batch)
    masks = (batch["completion_mask"] * batch["tool_mask"]).bool()
    size = UpdateSize(ROWS, int(masks.sum()), COMPLETION)
    loss = torch.zeros(())
    for rows in torch.arange(ROWS).chunk(parts):
        loss = (
            loss
            + policy_loss(
                variant,
                [logprobs[row] for row in rows],
                [batch["old_per_token_logps"][row] for row in rows],
                batch["advantages"][rows].tolist(),
                [masks[row] for row in rows],
                size,
                reference_logprobs=[batch["ref_per_token_logps"][row] for row in rows],
                entropies=[entropies[row] for row in rows],
                **settings,
            ).loss
        )
    return loss


def gradient(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


TRL = {
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo"},
}


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("entropy", [0.0, 0.01])
@pytest.mark.parametrize("variant", list(TRL))
def test_loss_and_gradient_are_those_of_trl(
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    tmp_path: Path,
    variant: Variant,
    beta: float,
    entropy: float,
) -> None:
    high = 1.28 if variant == "cispo" else 0.28  # TRL clips cispo's ratio at epsilon_high, we at 1 + clip_high
    settings = TRL[variant] | {"beta": beta, "epsilon": 0.2, "epsilon_high": high, "entropy_coef": entropy}
    theirs = trl_loss(model, batch, tmp_path, **settings)
    mine = our_loss(
        model, batch, variant, clip_low=0.2, clip_high=0.28, kl_coefficient=beta, entropy_coefficient=entropy
    )
    assert abs(float(mine.detach()) - float(theirs.detach())) <= 1e-6
    our_gradient, their_gradient = gradient(model, mine), gradient(model, theirs)
    assert float(their_gradient.norm()) > 1e-3
    assert float((our_gradient - their_gradient).norm() / their_gradient.norm()) <= 1e-5


@pytest.mark.parametrize("variant", [name for name in TRL if name != "bnpo"])
def test_the_parts_of_an_update_add_up_to_it(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], variant: Variant
) -> None:
    settings = {"kl_coefficient": 0.04, "entropy_coefficient": 0.01}
    whole, parts = (our_loss(model, batch, variant, count, **settings) for count in (1, 3))
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(gradient(model, whole), gradient(model, parts), rtol=1e-4, atol=1e-6)


def test_the_sums_say_what_was_clipped() -> None:
    policy = [torch.tensor([0.5, 0.0, -0.5, 9.0])]
    mask = [torch.tensor([True, True, True, False])]
    size = UpdateSize(1, 3, 4)
    gained = policy_loss("dapo", policy, [torch.zeros(4)], [1.0], mask, size, clip_low=0.2, clip_high=0.3)
    lost = policy_loss("dapo", policy, [torch.zeros(4)], [-1.0], mask, size, clip_low=0.2, clip_high=0.3)
    assert SimpleNamespace(low=gained.clipped_low, high=gained.clipped_high) == SimpleNamespace(low=0.0, high=1.0)
    assert SimpleNamespace(low=lost.clipped_low, high=lost.clipped_high) == SimpleNamespace(low=1.0, high=0.0)
    assert gained.tokens == 3


def test_a_rollout_that_wrote_nothing_weighs_nothing() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    masks = [torch.tensor([True, True]), torch.tensor([False, False])]
    loss = policy_loss("grpo", [logprobs, torch.zeros(2)], [torch.zeros(2)] * 2, [1.0, 1.0], masks, UpdateSize(2, 2, 2))
    loss.loss.backward()
    assert torch.isfinite(loss.loss)
    assert logprobs.grad is not None
