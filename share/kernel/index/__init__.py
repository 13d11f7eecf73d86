"""The k-NN indexes of the experience buffer that ship with Pixelis."""
