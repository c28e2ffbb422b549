"""Metrics as pure functions of predictions and references, and the tasks whose files `mmjax score` can score."""
