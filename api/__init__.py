"""HTTP only: routes, keys, rate limits, request and response bodies, errors, health. Accepts jobs;
never runs them.
"""
