"""Writes data sets in the layouts that tools of the field read. What is written reads back the same."""
