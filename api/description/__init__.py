"""What callers read of the API: its OpenAPI description, and the page that shows it."""
