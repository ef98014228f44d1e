"""Claims of the evaluate family."""
