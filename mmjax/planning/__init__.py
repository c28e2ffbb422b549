"""Floor 7: programs compiled for absent TPUs, and what the compiler says of memory, traffic and time."""
