"""Equal cascades with fewer passes: rules, the search over them, and the check of every result."""
