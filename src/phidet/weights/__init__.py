"""Weights: read any known file, carry its tensors to our names, write our own format, fetch the published ones."""
