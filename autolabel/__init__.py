"""The labelling command."""
