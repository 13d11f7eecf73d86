"""The command that serves and learns."""
