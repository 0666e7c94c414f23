"""What the API and the worker both need: settings, tables, states, identifiers and the broker.
Imports neither of them.
"""
