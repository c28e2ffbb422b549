"""Models called by the reference's own names of methods, arguments and outputs."""
