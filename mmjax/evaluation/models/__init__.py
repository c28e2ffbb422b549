"""Models that can be evaluated: runs of ours, weights of others in ours, and those of transformers."""
