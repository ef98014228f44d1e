"""Mechanisms of the multi-task family."""
