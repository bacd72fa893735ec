package kubevend

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
)

// watched tells when any of its files is another one. The empty path is no file.
type watched struct {
	paths []string
	seen  []os.FileInfo
}

// look finds out what the files are now, and whether that is something else than what was seen last.
func (w *watched) look() (found []os.FileInfo, changed bool, err error) {
	for i, path := range w.paths {
		var file os.FileInfo
		if path != "" {
			if file, err = os.Stat(path); err != nil {
				return nil, true, err
			}
		}
		found = append(found, file)
		changed = changed || w.seen == nil || !same(w.seen[i], file)
	}
	return found, changed, nil
}

// saw takes what look has found, once the content is read.
func (w *watched) saw(found []os.FileInfo) { w.seen = found }

func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// tokenFile gives the token that is in a file now.
type tokenFile struct {
	mutex sync.Mutex
	file  watched
	token string
}

func newTokenFile(path string) *tokenFile { return &tokenFile{file: watched{paths: []string{path}}} }

func (f *tokenFile) current() (string, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	found, changed, err := f.file.look()
	if err == nil && changed {
		err = f.read(found)
	}
	if err != nil {
		return "", unreadable("the token file", "KUBEVEND_TOKEN_FILE (Settings.TokenFile)", err)
	}
	return f.token, nil
}

func (f *tokenFile) read(found []os.FileInfo) error {
	content, err := os.ReadFile(f.file.paths[0])
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(content))
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return fmt.Errorf("there is no token in %s, or more than one", f.file.paths[0])
	}
	f.token = token
	f.file.saw(found)
	return nil
}

// transportSecurity reads CA and certificate as they are now.
func (s Settings) transportSecurity() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		roots, err := readRoots(s.CAFile)
		if err != nil {
			return nil, unreadable("the CA file", "KUBEVEND_CA_FILE (Settings.CAFile)", err)
		}
		config.RootCAs = roots
	}
	if s.ClientCertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.ClientCertFile, s.ClientKeyFile)
		if err != nil {
			return nil, unreadable("the client certificate",
				"KUBEVEND_CLIENT_CERT_FILE and KUBEVEND_CLIENT_KEY_FILE (Settings.ClientCertFile, ClientKeyFile)", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no certificate in " + path)
	}
	return roots, nil
}

func unreadable(what, setting string, cause error) *Error {
	message := fmt.Sprintf("%s cannot be used: %v. Correct %s, or see to it that the file is there and readable", what, cause, setting)
	return localError(codes.FailedPrecondition, reasonFile, message, cause)
}
