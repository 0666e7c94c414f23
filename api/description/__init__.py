"""The API as callers read of it: its OpenAPI description, the page that shows it, and the guide."""
