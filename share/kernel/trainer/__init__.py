"""Trainers: supervised fine-tuning and group-relative policy optimisation, with what both need."""
