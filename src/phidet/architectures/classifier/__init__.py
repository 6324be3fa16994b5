"""Image classifiers on any backbone (arXiv 1905.11946)."""
