"""What a training leaves in its run directory: the policy, the curves and a gallery of trajectories."""

from __future__ import annotations

from collections.abc import Sequence

from share.kernel.contracts.run import RunContext
from share.kernel.policy.checkpoint import sha256_of_tensors
from share.kernel.policy.learner import Learner
from share.kernel.policy.loading import Policy
from share.kernel.policy.rollout import how_rollouts_run
from share.kernel.report.curves import write_curves
from share.kernel.report.gallery import GalleryItem, write_gallery


def leave_results(run: RunContext, policy: Policy, learner: Learner, step: int, items: Sequence[GalleryItem]) -> None:
    """Write `policy/` (a Hugging Face directory), `curves.png` and `trajectories.html`, and name them as artifacts."""
    artifacts = run.artifacts
    artifacts["policy"] = run.run_dir / "policy"
    policy.save(artifacts["policy"])
    run.metrics["rollouts_run"] = how_rollouts_run(policy)
    run.metrics["policy_sha256"] = sha256_of_tensors(learner.parameters)
    artifacts["curves"] = run.run_dir / "curves.png"
    write_curves(run.run_dir, artifacts["curves"])
    artifacts["trajectories"] = run.run_dir / "trajectories.html"
    write_gallery(artifacts["trajectories"], items, f"Trajectories of {run.run_id}")
    run.logger.info("train.ended", f"{step} steps; the policy is in {artifacts['policy']}", step=step)


__all__ = ["leave_results"]
