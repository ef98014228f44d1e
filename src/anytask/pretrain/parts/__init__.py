"""Mechanisms of the pretraining family."""
