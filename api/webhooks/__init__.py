"""Webhooks, and the deliveries that were made to them."""
