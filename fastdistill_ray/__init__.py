"""Distil a teacher into a better small student on a Ray cluster, and prove how much better."""

__version__ = "0.1.0"
