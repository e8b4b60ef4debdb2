"""Kubernetes objects from the configuration, and what is done with them in a cluster."""
