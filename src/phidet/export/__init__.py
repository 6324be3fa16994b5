"""Writes models for other runtimes, and compares their outputs with PyTorch's."""
