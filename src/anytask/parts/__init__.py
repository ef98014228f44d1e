"""Mechanisms that two or more systems share, each written once, on tensors and arrays."""
