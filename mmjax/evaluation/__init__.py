"""Floor 5: tasks, metrics with intervals, the few-shot harness, and the files of scores and predictions."""
