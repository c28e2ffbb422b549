"""Floor 4: train states on disk with their data position and configuration, verified when they are read."""
