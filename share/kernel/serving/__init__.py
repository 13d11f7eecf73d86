"""Serving beside learning: who is let in, batches, versions of weights, and the engine that answers and remembers."""
