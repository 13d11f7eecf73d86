"""Run by a test beside a stranger's wheel: a policy learns one call of its operation, then rolls out.

Prints the actions of the rollouts as JSON.
"""

from __future__ import annotations

import json
import sys

import torch

from share.kernel.config import Choice
from share.kernel.contracts.task import Call, Demonstration, Prompt
from share.kernel.media.operator import load_operator
from share.kernel.policy.loading import PolicyConfig, load_policy
from share.kernel.policy.logprobs import token_logprobs
from share.kernel.policy.rollout import RolloutConfig, rollout, teacher_forced
from share.kernel.policy.sampling import RolloutKey
from share.kernel.registry import load_registry
from share.kernel.testing import example_scene

UPDATES = 40


def main(operation: str) -> None:
    torch.set_num_threads(1)
    policy = load_policy(PolicyConfig())
    operator = load_operator(load_registry(), [Choice("operation", operation)], fit=policy.fit)
    prompt = Prompt("prompt-1", "example", "How bright is it?", example_scene().natives, "7")
    shown = Demonstration((Call(operation, {"bbox": [10, 10, 40, 30]}),), "7")
    demonstrated = teacher_forced(policy, prompt, shown, operator)

    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-3)
    for _ in range(UPDATES):
        ((logprobs, _),) = token_logprobs(policy, [demonstrated])
        loss = -logprobs[demonstrated.action_mask].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.05:
            break

    (group,) = rollout(policy, [prompt], operator, RolloutConfig(group_size=2, temperature=0.0), RolloutKey(0, 0))
    actions = [[(a.operation, a.observation, a.error) for a in r.trajectory.actions] for r in group.rollouts]
    print(json.dumps(actions))


if __name__ == "__main__":
    main(sys.argv[1])
