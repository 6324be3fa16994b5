"""Writes models for other runtimes, and compares what they say with PyTorch."""
