"""Detections as the nodes of a graph: edges, adjacency, features and the classical questions; without PyTorch."""
