"""A loop that was traced step by step, as one iterate block: `roll.loops_of`."""
