"""Detected parts against nominal ones: the image's pose, places, verdicts. Needs SciPy: extra ``align``."""
