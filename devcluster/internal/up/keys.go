package up

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	// clockSlack backdates certificates, for clients whose clock is a little behind.
	clockSlack = 5 * time.Minute
)

// keyPair is a certificate and its private key, both as PEM.
type keyPair struct {
	certificate []byte
	key         []byte
}

// authority signs the certificates of one cluster.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	pem         []byte
}

// loadAuthority reads the CA that an earlier run left in the folder, or makes one there.
func loadAuthority(dir *folder) (*authority, error) {
	key, err := loadKey(dir.join("ca.key"), keyEC)
	if err != nil {
		return nil, err
	}
	certificatePEM, err := os.ReadFile(dir.join("ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		certificatePEM, err = selfSign(key)
		if err == nil {
			err = os.WriteFile(dir.join("ca.crt"), certificatePEM, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certificatePEM)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate; remove the folder and start again", dir.join("ca.crt"))
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &authority{certificate: certificate, key: key, pem: certificatePEM}, nil
}

func selfSign(key crypto.Signer) ([]byte, error) {
	template, err := newTemplate(pkix.Name{CommonName: "devcluster CA"}, caLifetime)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// issueServing signs a certificate for the API server under the names by which tests and pods call it.
func (a *authority) issueServing() (keyPair, error) {
	template, err := newTemplate(pkix.Name{CommonName: "kube-apiserver"}, leafLifetime)
	if err != nil {
		return keyPair{}, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.DNSNames = []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}
	return a.issue(template)
}

// issueClient signs a certificate that authenticates as a user of a group.
func (a *authority) issueClient(user, group string) (keyPair, error) {
	template, err := newTemplate(pkix.Name{CommonName: user, Organization: []string{group}}, leafLifetime)
	if err != nil {
		return keyPair{}, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(template)
}

func (a *authority) issue(template *x509.Certificate) (keyPair, error) {
	key, err := generateKey(keyEC)
	if err != nil {
		return keyPair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return keyPair{}, err
	}
	keyPEM, err := encodeKey(key)
	return keyPair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM}, err
}

func newTemplate(subject pkix.Name, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-clockSlack),
		NotAfter:     now.Add(lifetime),
	}, err
}

// loadKey reads the private key at path, or makes one of the kind there (mode 0600).
// A key of another kind is an error, since tokens that it signed would stop working.
func loadKey(path, kind string) (crypto.Signer, error) {
	keyPEM, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(path, kind)
	}
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove the folder and start again", path, err)
	}
	if found := kindOf(key); found != kind {
		return nil, fmt.Errorf("%s is an %s key, asked for was %s; ask for %s or choose another folder", path, found, kind, found)
	}
	return key, nil
}

func createKey(path, kind string) (crypto.Signer, error) {
	key, err := generateKey(kind)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(path, keyPEM, 0o600)
}

func generateKey(kind string) (crypto.Signer, error) {
	if kind == keyRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func kindOf(key crypto.Signer) string {
	if _, ok := key.(*rsa.PrivateKey); ok {
		return keyRSA
	}
	return keyEC
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func encodePublicKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err
}

func decodeKey(keyPEM []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}
