"""The experience buffer: durable experiences, k-NN search, prioritized sampling; see docs/formats/buffer.md."""
