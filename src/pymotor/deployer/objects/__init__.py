"""Functions that build Kubernetes objects: plain dictionaries, nothing read and nothing sent."""
