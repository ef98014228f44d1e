"""Mechanisms of the continual family alone."""
