"""The page of NERO results."""
