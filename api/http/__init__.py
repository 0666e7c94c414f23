"""HTTP, for every room: the protocol, keys, rate limits, bodies, and the shape of answers."""
