"""Floor 6: tasks, metrics, intervals, the few-shot harness, and the files of scores and predictions."""
