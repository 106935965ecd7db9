"""The GPU tile simulator: exact tiles, occupancy, pipes, waves, and one calibrated scalar."""
