"""Floor 4: prompts as padded rows, a cached forward pass, sampling, generation, and scores of given answers."""
