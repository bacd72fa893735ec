"""kubevend's server: it issues short-lived Kubernetes ServiceAccount tokens over gRPC.

Read `app` first: it builds the whole program, top to bottom.
"""

__version__ = "0.1.0"
