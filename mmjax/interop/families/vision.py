"""Picture encoders."""
VISION = ()
