"""kubevend: short-lived Kubernetes ServiceAccount tokens over gRPC."""
