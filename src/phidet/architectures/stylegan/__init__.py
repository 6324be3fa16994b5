"""The style-based generator (arXiv 1812.04948) and its discriminator."""
