"""What a sweep can evaluate: one module a subject, from a point's texts to its results."""
