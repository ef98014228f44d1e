"""Claims of the control family."""
