"""Reward components: plain functions of a group of rollouts."""
