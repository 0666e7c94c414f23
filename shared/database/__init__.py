"""PostgreSQL: engines, tables and their history, and what statements are made of."""
