"""Visual operations: what a policy may do to the images of a scene."""
