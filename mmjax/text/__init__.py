"""Floor 1: tokenizers, and prompts built from segments."""
