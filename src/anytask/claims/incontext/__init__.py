"""Claims of the incontext family."""
