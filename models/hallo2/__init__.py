"""Hallo2 in our own code: folder and weights of the original, conditions, clips."""
