"""Metrics and logs of PyMotor's own processes."""
