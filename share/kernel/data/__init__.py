"""What training is fed, and in which order: curricula."""
