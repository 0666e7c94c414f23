"""What every call passes: the protocol, its key, its limits, its body, and the shape of its
answer.
"""
