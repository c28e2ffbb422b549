"""Floor 2: Linen layers made of ops and logical axes: linear maps, norms, attention, feed-forward."""
