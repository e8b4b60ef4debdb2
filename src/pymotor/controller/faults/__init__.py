"""Faults of hardware: how bad they are, where they are told of, and what is done about them."""
