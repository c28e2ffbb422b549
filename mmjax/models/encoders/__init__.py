"""Picture encoders."""
