"""The side-by-side benchmark: what `run` is made of."""
