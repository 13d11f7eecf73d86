"""One command a figure, with its baseline in the same run."""
