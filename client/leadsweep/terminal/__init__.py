"""How commands take options, speak to a terminal, and fail."""
