"""The storages of the experience buffer that ship with Pixelis."""
