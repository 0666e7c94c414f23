"""Leadsweep against its floors: the same data, the same servers, in one run, several rounds in
turn. `make bench` runs it.
"""
