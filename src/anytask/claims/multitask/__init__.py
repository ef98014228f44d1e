"""Claims of the multi-task family."""
