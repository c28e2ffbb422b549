"""Floor 3: schedules, parameter groups, and the optimizer made of them."""
