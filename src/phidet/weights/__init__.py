"""Weights: read known formats, map tensor names to ours, write our own format, download published files."""
