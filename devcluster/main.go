// Command devcluster is a Kubernetes control plane in one binary: the upstream etcd, kube-apiserver,
// kube-controller-manager and kubectl, and `up`, which runs them together for development and tests.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client metrics on /metrics, as upstream's mains have them
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info on /metrics
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"

	"kubevend.dev/devcluster/internal/up"
)

const usage = `usage: devcluster COMMAND [arguments]

  up                        run a cluster; see devcluster up --help
  kubectl                   upstream's commands, with all of their options
  kube-apiserver
  kube-controller-manager
  etcd
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	// Upstream's commands take os.Args for their own.
	os.Args = os.Args[1:]
	switch os.Args[0] {
	case "up":
		os.Exit(up.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kubectl":
		runKubectl()
	default:
		fmt.Fprintf(os.Stderr, "devcluster: unknown command %q\n%s", os.Args[0], usage)
		os.Exit(2)
	}
}

// runKubectl exits as kubectl's own main does, with the message of the API server in place of a Go error.
func runKubectl() {
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}
