"""Co-design studies: what is computed, the full-size results that are committed, and a check of some of their rows."""
