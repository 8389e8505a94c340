"""Talking portraits on any machine: the picture is warped to what the sound says."""
