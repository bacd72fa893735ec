// Package kubevend gets short-lived Kubernetes ServiceAccount tokens from a kubevend server.
//
// [Connect] makes a [Client]. A [TokenSource] keeps one token that is good, for as long as it is open; package
// kubevend.dev/kubevend/kubernetes puts it into client-go.
package kubevend

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Settings say where a kubevend server is, and what its caller shows: a token or a certificate, never both.
type Settings struct {
	// Address is host:port.
	Address string
	// CAFile has the authorities that may vouch for the server, PEM. Empty: the system's.
	CAFile string
	// TokenFile has the caller's token, such as a projected ServiceAccount token. It is read again when it changes.
	TokenFile string
	// ClientCertFile and ClientKeyFile have the caller's certificate and its key, PEM. They are read again at each handshake.
	ClientCertFile, ClientKeyFile string
	// Plaintext is for a server on a loopback address alone.
	Plaintext bool
}

// FromEnvironment reads KUBEVEND_ADDRESS, KUBEVEND_CA_FILE, KUBEVEND_TOKEN_FILE, KUBEVEND_CLIENT_CERT_FILE and
// KUBEVEND_CLIENT_KEY_FILE.
func FromEnvironment() Settings {
	return Settings{
		Address:        os.Getenv("KUBEVEND_ADDRESS"),
		CAFile:         os.Getenv("KUBEVEND_CA_FILE"),
		TokenFile:      os.Getenv("KUBEVEND_TOKEN_FILE"),
		ClientCertFile: os.Getenv("KUBEVEND_CLIENT_CERT_FILE"),
		ClientKeyFile:  os.Getenv("KUBEVEND_CLIENT_KEY_FILE"),
	}
}

func (s Settings) check() error {
	host, _, err := net.SplitHostPort(s.Address)
	switch {
	case s.Address == "":
		return errors.New("the address is missing: set KUBEVEND_ADDRESS to the host:port of a kubevend server")
	case err != nil:
		return fmt.Errorf("the address (KUBEVEND_ADDRESS) is %q: it must be host:port", s.Address)
	case (s.ClientCertFile == "") != (s.ClientKeyFile == ""):
		return errors.New("a client certificate needs both KUBEVEND_CLIENT_CERT_FILE and KUBEVEND_CLIENT_KEY_FILE")
	case s.ClientCertFile != "" && s.TokenFile != "":
		return errors.New("both a client certificate and a token file are given; the server refuses two identities")
	case s.Plaintext && !isLoopback(host):
		return fmt.Errorf("plain text is for loopback addresses alone, and %s is none", s.Address)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
