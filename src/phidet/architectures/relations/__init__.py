"""Graph networks on detections: corrected labels, scores and places, groups, and a verdict on the whole."""
