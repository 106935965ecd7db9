"""The gallery: one self-contained page over the whole zoo."""
