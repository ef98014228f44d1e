"""Claims of the continual family."""
