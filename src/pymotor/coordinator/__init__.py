"""The gateway: a request in, an answer out."""
