"""How commands take options, print to a terminal, and fail."""
