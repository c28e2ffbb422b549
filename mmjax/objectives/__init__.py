"""Floor 4: losses of models on batches, one file a loss."""
