"""Claims of the prompts family."""
