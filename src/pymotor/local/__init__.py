"""A whole fleet as processes of this machine: the cluster without Kubernetes."""
