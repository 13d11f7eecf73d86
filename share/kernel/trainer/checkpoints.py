"""The checkpoints of a run: where they are, whose they are, and what a resumed run says of them."""

from __future__ import annotations

from collections.abc import Mapping

from share.kernel.contracts.run import RunContext
from share.kernel.policy.checkpoint import (
    Checkpoint,
    fingerprint,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from share.kernel.policy.loading import Policy


class RunCheckpoints:
    """Written by one trainer from one seed and one policy, and read by no other; the newest `kept` are kept.

    A resumed run that began from other weights would have another reference, and under an adapter another policy.
    Make this before the first update: `policy` is fingerprinted as it is.
    """

    def __init__(self, run: RunContext, trainer: str, policy: Policy, kept: int) -> None:
        self._run = run
        self._directory = run.run_dir / "checkpoints"
        self._identity = f"{trainer} with seed {run.seed} from policy {fingerprint(policy.model.state_dict())}"
        self._kept = kept

    def save(self, step: int, parts: Mapping[str, object]) -> None:
        """Write a checkpoint of `parts` and the random generators."""
        write_checkpoint(self._directory, step, self._identity, {**parts, "random": random_state()}, self._kept)

    def restore(self) -> Checkpoint | None:
        """The newest good checkpoint, the random generators restored; None: there is none yet.

        Clears the metrics of the run's earlier part. Raises CheckpointError as `read_checkpoint`.
        """
        checkpoint = read_checkpoint(self._directory, self._identity)
        self._run.metrics.clear()
        if checkpoint is None:
            self._run.logger.info("train.resumed", "no checkpoint yet: from the beginning", step=0)
            return None
        for damage in checkpoint.damaged:
            self._run.logger.warn("train.checkpoint_damaged", f"passed over a damaged checkpoint: {damage}")
        generators = checkpoint.parts["random"]
        assert isinstance(generators, Mapping)
        restore_random_state(generators)
        self._run.logger.info("train.resumed", f"resumed after step {checkpoint.step}", step=checkpoint.step)
        return checkpoint


__all__ = ["RunCheckpoints"]
