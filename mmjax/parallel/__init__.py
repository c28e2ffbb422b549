"""Floor 1: the device mesh, logical axes, parameters made in their shards, and the audit of where they lie."""
