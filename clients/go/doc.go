// Package kubevend gets short-lived Kubernetes ServiceAccount tokens from a kubevend server.
//
// [Connect] makes a [Client]. A [TokenSource] keeps one token good for as long as it is open: through rotations, outages of
// kubevend, and revocations. The module kubevend.dev/kubevend/kubernetes puts it into client-go; [TokenSource.OAuth2] into
// whatever takes a source of OAuth 2.0 tokens.
//
// Every error is an [*Error], with the reason that kubevend gives.
package kubevend

// Version is that of this library.
const Version = "0.1.0"
