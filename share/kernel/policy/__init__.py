"""The policy library: loading, chat format, rollouts, log-probabilities, losses, checkpoints."""
