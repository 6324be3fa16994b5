"""What a careful colleague would say about a data set before training on it; no PyTorch."""
