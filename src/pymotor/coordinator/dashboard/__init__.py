"""The dashboard: a page at the management port, and the figures that it shows."""
