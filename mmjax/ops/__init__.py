"""Floor 1: pure functions on arrays: attention, masks, rotary positions, norms, losses, FLOP counts."""
