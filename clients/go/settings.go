package kubevend

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Settings say where a kubevend server is, and what its caller shows: a token, a certificate, or nothing.
//
// All files may be replaced at any time. They are looked at when a call or stream begins; one that is under way goes on with
// what it began with. Another certificate or authority that cannot be used, such as a certificate whose key has not been
// written yet, does not count until it can.
type Settings struct {
	// Address is host:port.
	Address string
	// CAFile has the authorities that may vouch for the server, PEM. Empty: those of the system.
	CAFile string
	// TokenFile has the caller's token, such as that of a ServiceAccount which the kubelet renews.
	TokenFile string
	// ClientCertFile and ClientKeyFile have the caller's certificate, with its chain, and its key, both PEM.
	ClientCertFile, ClientKeyFile string
	// Plaintext leaves TLS out. It is for a loopback address alone.
	Plaintext bool
}

// FromEnvironment reads KUBEVEND_ADDRESS, KUBEVEND_CA_FILE, KUBEVEND_TOKEN_FILE, KUBEVEND_CLIENT_CERT_FILE and
// KUBEVEND_CLIENT_KEY_FILE. What is wrong with them [Connect] tells.
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
		return errors.New("nothing says where kubevend is: set KUBEVEND_ADDRESS (Settings.Address) to its host:port")
	case err != nil:
		return fmt.Errorf("%q is no address: KUBEVEND_ADDRESS (Settings.Address) must be host:port", s.Address)
	case (s.ClientCertFile == "") != (s.ClientKeyFile == ""):
		return errors.New("a client certificate needs its key: set both KUBEVEND_CLIENT_CERT_FILE and KUBEVEND_CLIENT_KEY_FILE, or none")
	case s.ClientCertFile != "" && s.TokenFile != "":
		return errors.New("both KUBEVEND_TOKEN_FILE and KUBEVEND_CLIENT_CERT_FILE are set, and kubevend takes one identity: leave one out")
	case s.Plaintext && !isLoopback(host):
		return fmt.Errorf("plain text is for loopback addresses alone, and %s is none: leave Settings.Plaintext out", s.Address)
	case s.Plaintext && (s.CAFile != "" || s.ClientCertFile != ""):
		return errors.New("CA and client certificate are of no use without TLS: leave them or Settings.Plaintext out")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
