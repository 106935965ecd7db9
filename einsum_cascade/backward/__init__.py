"""Gradients of a cascade: from what is computed to what a backward pass computes, again as a cascade."""
