package up

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

const (
	keyRSA = "rsa"
	keyEC  = "ec"
)

// options says how one cluster is to run; every path in it is absolute.
type options struct {
	dir                string
	keep               bool
	port               int
	maxTokenExpiration time.Duration
	signingKey         string
	issuer             string
	auditLog           string
	controllerManager  bool
	stopOnStdinEOF     bool
}

// parseOptions reads the flags of `devcluster up`. Usage and complaints go to stderr.
func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("devcluster up", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.dir, "dir", "", "working folder: keys, data, logs, kubeconfig (required; created if missing)")
	flags.BoolVar(&o.keep, "keep", false, "leave the folder behind, so that the next run finds its keys and data")
	flags.IntVar(&o.port, "port", 0, "port of the API server on 127.0.0.1; 0 takes a free one")
	flags.DurationVar(&o.maxTokenExpiration, "max-token-expiration", 0,
		"longest life of a ServiceAccount token, 1h or more; 0 sets no limit")
	flags.StringVar(&o.signingKey, "signing-key", keyRSA, "kind of the key that signs ServiceAccount tokens: rsa or ec")
	flags.StringVar(&o.issuer, "issuer", "https://kubernetes.default.svc", "issuer of ServiceAccount tokens")
	flags.StringVar(&o.auditLog, "audit-log", "", "audit log of the API server (default DIR/kube-audit.log)")
	flags.BoolVar(&o.controllerManager, "controller-manager", false,
		"also run the controllers that fill aggregated ClusterRoles, empty deleted namespaces and collect garbage")
	flags.BoolVar(&o.stopOnStdinEOF, "stop-on-stdin-eof", false,
		"stop when stdin ends, and obey the lines `stop kube-apiserver` and `start kube-apiserver` on it")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o.complete()
}

// complete checks what the flags cannot, and makes paths absolute.
func (o options) complete() (options, error) {
	if o.dir == "" {
		return o, errors.New("--dir is missing: name a folder for the cluster's files")
	}
	if o.signingKey != keyRSA && o.signingKey != keyEC {
		return o, fmt.Errorf("--signing-key is %q, expected %q or %q", o.signingKey, keyRSA, keyEC)
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return o, err
	}
	if o.auditLog == "" {
		o.auditLog = filepath.Join(o.dir, "kube-audit.log")
	}
	o.auditLog, err = filepath.Abs(o.auditLog)
	return o, err
}
