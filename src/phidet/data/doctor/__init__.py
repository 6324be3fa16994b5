"""Checks a data set before training: finds problems, measures anchors, and gives advice; no PyTorch."""
