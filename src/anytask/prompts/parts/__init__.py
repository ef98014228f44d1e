"""Mechanisms of this family alone."""
