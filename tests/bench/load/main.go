// Command load asks one server for tokens, as fast as a number of callers get them, and prints one JSON line
// about it. It is compiled so that what is measured is the server, not the one who asks.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// options are the command line.
type options struct {
	mode        string
	address     string
	caFile      string
	tokenFile   string
	path        string
	body        string
	role        string
	http2       bool
	callers     int
	connections int
	warmup      time.Duration
	duration    time.Duration
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	opts := parse()
	secret, err := os.ReadFile(opts.tokenFile)
	if err != nil {
		return err
	}
	askers, closeAll, err := dial(opts, strings.TrimSpace(string(secret)))
	if err != nil {
		return err
	}
	defer closeAll()
	outcome := measure(askers, opts.callers, opts.warmup, opts.duration)
	return json.NewEncoder(os.Stdout).Encode(outcome)
}

func parse() options {
	var opts options
	flag.StringVar(&opts.mode, "mode", "", "whom to ask: direct, chain, kubevend or openbao")
	flag.StringVar(&opts.address, "address", "", "host:port, or the URL of an HTTP server")
	flag.StringVar(&opts.caFile, "ca", "", "the CA of the server's certificate, PEM")
	flag.StringVar(&opts.tokenFile, "token-file", "", "what the callers authenticate with")
	flag.StringVar(&opts.path, "path", "", "direct, openbao: the path to POST to")
	flag.StringVar(&opts.body, "body", "", "direct, openbao: the JSON to POST; chain: the steps as a JSON list")
	flag.StringVar(&opts.role, "role", "", "kubevend: the role to ask for, as in roles/ci")
	flag.BoolVar(&opts.http2, "http2", false, "direct: speak HTTP/2 in place of HTTP/1.1")
	flag.IntVar(&opts.callers, "callers", 1, "how many ask at once")
	flag.IntVar(&opts.connections, "connections", 0, "over how many connections (0: one for each caller)")
	flag.DurationVar(&opts.warmup, "warmup", time.Second, "how long to ask before anything counts")
	flag.DurationVar(&opts.duration, "duration", 4*time.Second, "how long to measure")
	flag.Parse()
	if opts.connections == 0 {
		opts.connections = opts.callers
	}
	return opts
}

// dial makes one asker for each connection.
func dial(opts options, secret string) ([]asker, func(), error) {
	switch opts.mode {
	case "direct":
		return dialHTTP(opts, "Authorization", "Bearer "+secret, sameAgain(opts, tokenRequestToken))
	case "chain":
		steps, err := chain(opts)
		if err != nil {
			return nil, nil, err
		}
		return dialHTTP(opts, "Authorization", "Bearer "+secret, steps)
	case "openbao":
		return dialHTTP(opts, "X-Vault-Token", secret, sameAgain(opts, openBaoToken))
	case "kubevend":
		return dialGRPC(opts, secret)
	}
	return nil, nil, fmt.Errorf("-mode is %q; it must be direct, chain, kubevend or openbao", opts.mode)
}
