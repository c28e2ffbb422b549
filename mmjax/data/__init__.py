"""Floor 2: sources, packing, mixtures, and the batch stream, which is a pure function of its position."""
