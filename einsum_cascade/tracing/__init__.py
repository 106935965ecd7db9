"""From a PyTorch function to a cascade: what torch.fx records is restated, operation by operation."""
