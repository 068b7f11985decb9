"""What Kubernetes is to us: the tracing of its components, for components in Python too."""
