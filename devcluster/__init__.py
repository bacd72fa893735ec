"""A real etcd and kube-apiserver for development and tests, compiled from their Go modules.

It needs nothing but Python's standard library, so that it can run before anything else is installed.
"""

from devcluster.binaries import devcluster_binary, grpcurl
from devcluster.build import build
from devcluster.cluster import DevCluster, DevClusterError
from devcluster.golang import GoError

__all__ = ["DevCluster", "DevClusterError", "GoError", "build", "devcluster_binary", "grpcurl"]
