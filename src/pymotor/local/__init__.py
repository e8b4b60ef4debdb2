"""Processes that run as a whole fleet on this machine."""
