"""Mechanisms of the evaluation family alone."""
