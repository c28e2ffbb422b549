"""Floor 5: weights in and out. One table a family, read in both directions; configs, tensors and folders."""
