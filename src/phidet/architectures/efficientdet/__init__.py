"""EfficientDet (arXiv 1911.09070): network, anchors, loss, weights of other projects, analysis."""
