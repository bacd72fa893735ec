package up

import (
	"fmt"
	"strings"
	"time"
)

const (
	etcdName              = "etcd"
	apiserverName         = "kube-apiserver"
	controllerManagerName = "kube-controller-manager"

	// etcd's sockets, relative to the working folder: the path of a Unix socket has room for some 100
	// characters, which the folder's own path may well fill.
	etcdClientURL = "unix://etcd.sock"
	etcdPeerURL   = "unix://etcd-peer.sock"
)

// controllers are those that change what a client of TokenRequest, RBAC and Secrets sees.
var controllers = []string{
	"clusterrole-aggregation-controller",
	"garbage-collector-controller",
	"namespace-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"serviceaccount-token-controller",
}

// grace is how long a component may take to stop before it is killed. The API server would drain
// connections for up to a minute.
var grace = map[string]time.Duration{
	etcdName:              3 * time.Second,
	apiserverName:         3 * time.Second,
	controllerManagerName: 2 * time.Second,
}

func etcdArgs() []string {
	return []string{
		"--name=devcluster",
		"--data-dir=etcd",
		"--listen-client-urls=" + etcdClientURL,
		"--advertise-client-urls=" + etcdClientURL,
		"--listen-peer-urls=" + etcdPeerURL,
		"--initial-advertise-peer-urls=" + etcdPeerURL,
		"--initial-cluster=devcluster=" + etcdPeerURL,
		"--log-level=warn",
		// A development cluster may lose its last writes in a power failure.
		"--unsafe-no-fsync",
	}
}

func (c *cluster) apiserverArgs() []string {
	args := []string{
		"--etcd-servers=" + etcdClientURL,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", c.port),
		"--permit-port-sharing", // see reservePort
		// The endpoints of the Service `kubernetes` may not be on loopback.
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.96.0.0/24",
		"--tls-cert-file=" + c.dir.join("apiserver.crt"),
		"--tls-private-key-file=" + c.dir.join("apiserver.key"),
		"--client-ca-file=" + c.dir.join("ca.crt"),
		"--authorization-mode=RBAC",
		// It would hold up pods until their ServiceAccount has been made; no pod runs here.
		"--disable-admission-plugins=ServiceAccount",
		"--service-account-issuer=" + c.options.issuer,
		"--service-account-signing-key-file=" + c.dir.join("sa.key"),
		"--service-account-key-file=" + c.dir.join("sa.pub"),
		"--audit-policy-file=" + c.dir.join("audit-policy.yaml"),
		"--audit-log-path=" + c.options.auditLog,
		"--audit-log-mode=blocking", // a line is in the file as soon as its request has ended
		"--audit-log-maxsize=0",     // no rotation: readers find every line in the one file
	}
	if c.options.maxTokenExpiration > 0 {
		args = append(args, fmt.Sprintf("--service-account-max-token-expiration=%s", c.options.maxTokenExpiration))
	}
	return args
}

func (c *cluster) controllerManagerArgs() []string {
	return []string{
		"--kubeconfig=" + c.dir.join("kubeconfig"),
		"--controllers=" + strings.Join(controllers, ","),
		"--root-ca-file=" + c.dir.join("ca.crt"),
		"--service-account-private-key-file=" + c.dir.join("sa.key"),
		"--leader-elect=false",
		"--secure-port=0",
	}
}
