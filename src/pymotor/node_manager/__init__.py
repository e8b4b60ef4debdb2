"""Starts, watches and stops the engine servers of one node, as the Controller orders."""
