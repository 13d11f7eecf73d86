"""Cuts the power, breaks the disk and kills the process under the experience buffer, at every call it makes."""
