"""What a run leaves for a person to look at: curves and a gallery of trajectories."""
