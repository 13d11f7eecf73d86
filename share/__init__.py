"""Shared code of the Pixelis commands; `share.kernel` is its kernel."""
