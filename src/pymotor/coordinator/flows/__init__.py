"""The order of the legs: one path a module."""
