"""Floor 6: the run's configuration, its state, the step, the guards, and the loop."""
