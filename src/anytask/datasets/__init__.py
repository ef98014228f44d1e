"""Readers of users' files, built-in data, and generated worlds."""
