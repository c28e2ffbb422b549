"""Floor 6: the parity certificate. An outside checkpoint, run here, against what its reference computed."""
