"""Identities over time: from the detections of each frame to tracks."""
