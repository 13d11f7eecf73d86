"""The deployment commands."""
