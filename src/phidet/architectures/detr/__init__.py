"""DETR, end-to-end object detection with transformers (arXiv 2005.12872)."""
