"""Training and evaluation on labelled images."""
