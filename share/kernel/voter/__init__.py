"""The voters that ship with Pixelis: one answer from the policy's and those of similar experiences."""
