"""Floor 7: the report of a run: scores, curves, episodes with their pictures, attention maps, facts."""
