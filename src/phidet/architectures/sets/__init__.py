"""Set prediction (arXiv 2005.12872, section 3.1): matching of predictions and objects, and losses over the pairs.

Boxes here are (centre x, centre y, width, height) in shares of the image without its padding.
"""
