"""Design-space exploration: spaces, resumable sweeps on any executor, fronts, sensitivities, one page to explore."""
