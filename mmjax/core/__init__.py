"""Floor 0: array types, parameter paths, typed errors, strict configuration, progress."""
