"""Claims of the pretraining family."""
