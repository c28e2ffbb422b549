"""Floor 3: encoders, connectors, decoders, fusion, and the models assembled from them; their size tables."""
