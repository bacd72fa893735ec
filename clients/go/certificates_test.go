package kubevend_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"kubevend.dev/kubevend"
	"kubevend.dev/kubevend/internal/scripted"
	kubevendv1 "kubevend.dev/kubevend/v1"
)

// authority vouches for certificates.
type authority struct {
	*testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{T: t}
	a.certificate, a.key = a.sign("authority", 1, a)
	return a
}

func (a *authority) sign(name string, serial int64, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: serial == 1, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := template, key
	if by.certificate != nil {
		parent, signer = by.certificate, by.key
	}
	content, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(content)
	if err != nil {
		a.Fatal(err)
	}
	return certificate, key
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// write puts PEM into a file, by a rename.
func (a *authority) write(path, kind string, content []byte) {
	a.Helper()
	if err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		a.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		a.Fatal(err)
	}
}

func (a *authority) encoded(key *ecdsa.PrivateKey) []byte {
	a.Helper()
	content, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.Fatal(err)
	}
	return content
}

// A certificate that is replaced is shown from the next call on, while a stream that runs goes on with the one before; one whose
// key has not been written yet does not count. The same holds for the authorities.
func TestACertificateIsReadAgain(t *testing.T) {
	ours := newAuthority(t)
	certificate, key := ours.sign("server", 2, ours)
	server := scripted.Start(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ours.pool(),
	})))
	defer server.Stop()
	server.Issue = func(ctx context.Context, _ *kubevendv1.IssueTokenRequest) (*kubevendv1.IssueTokenResponse, error) {
		caller, _ := peer.FromContext(ctx)
		return scripted.Token("secret", caller.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0].Subject.CommonName, life), nil
	}
	folder := t.TempDir()
	settings := kubevend.Settings{
		Address: "127.0.0.1:1", CAFile: filepath.Join(folder, "ca"), ClientCertFile: filepath.Join(folder, "cert"),
		ClientKeyFile: filepath.Join(folder, "key"),
	}
	certificate, key = ours.sign("first", 3, ours)
	ours.write(settings.CAFile, "CERTIFICATE", ours.certificate.Raw)
	ours.write(settings.ClientCertFile, "CERTIFICATE", certificate.Raw)
	ours.write(settings.ClientKeyFile, "PRIVATE KEY", ours.encoded(key))
	client, err := kubevend.Connect(settings, grpc.WithContextDialer(server.Dial))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	shown := func(want string) {
		t.Helper()
		token, err := client.Issue(context.Background(), kubevend.Request{Role: "ci"})
		if err != nil || token.Lease != want {
			t.Fatal(token, err)
		}
	}
	source := kubevend.NewTokenSource(client, kubevend.Request{Role: "ci"})
	defer source.Close()
	go source.Token(t.Context())
	stream := server.Next()

	shown("first")
	certificate, key = ours.sign("second", 4, ours)
	ours.write(settings.ClientCertFile, "CERTIFICATE", certificate.Raw)
	shown("first")
	ours.write(settings.ClientKeyFile, "PRIVATE KEY", ours.encoded(key))
	shown("second")
	ours.write(settings.CAFile, "CERTIFICATE", newAuthority(t).certificate.Raw)
	if _, err := client.Issue(context.Background(), kubevend.Request{Role: "ci"}); err == nil {
		t.Fatal("a server for which nobody vouches is believed")
	}
	stream.Token("one", "leases/one", life)
	if token, err := source.Token(context.Background()); err != nil || token.Value() != "one" {
		t.Fatal(token, err)
	}
	if server.Opened() != 0 {
		t.Fatal("another stream was opened")
	}
}
