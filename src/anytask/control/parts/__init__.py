"""Mechanisms of the control family alone."""
