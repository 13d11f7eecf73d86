"""The storages of the experience buffer."""
