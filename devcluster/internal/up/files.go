package up

import (
	"encoding/base64"
	"fmt"
	"os"
)

// auditPolicy leaves out what the API server asks of itself; everything else is there without its bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:apiserver"]
  - level: Metadata
`

// kubeconfigTemplate has a context without a user too: kubectl prefers a certificate to a --token.
const kubeconfigTemplate = `apiVersion: v1
kind: Config
current-context: devcluster
clusters:
  - name: devcluster
    cluster:
      server: %s
      certificate-authority-data: %s
users:
  - name: admin
    user:
      client-certificate-data: %s
      client-key-data: %s
contexts:
  - name: devcluster
    context:
      cluster: devcluster
      user: admin
  - name: anonymous
    context:
      cluster: devcluster
`

// writeFiles puts what the API server and its clients read into the folder. The signing key and the CA are
// those of an earlier run if there are any; certificates and kubeconfig are new each time.
func (c *cluster) writeFiles() error {
	signingKey, err := loadKey(c.dir.join("sa.key"), c.options.signingKey)
	if err != nil {
		return err
	}
	verifyingKey, err := encodePublicKey(signingKey)
	if err != nil {
		return err
	}
	serving, err := c.ca.issueServing()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"sa.pub":            verifyingKey,
		"apiserver.crt":     serving.certificate,
		"apiserver.key":     serving.key,
		"audit-policy.yaml": []byte(auditPolicy),
		"kubeconfig":        c.kubeconfig(),
	}
	for name, content := range files {
		if err := os.WriteFile(c.dir.join(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) kubeconfig() []byte {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, kubeconfigTemplate,
		c.server(), encode(c.ca.pem), encode(c.admin.certificate), encode(c.admin.key))
}
