"""Readers of the field's data formats: each gives examples by their number (`mmjax.data.source.ExampleSource`)."""
