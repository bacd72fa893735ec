/**
 * Short-lived Kubernetes ServiceAccount tokens from a kubevend server.
 *
 * <p>{@link dev.kubevend.Kubevend} is the connection. {@link dev.kubevend.TokenSource} keeps one token that is good, for as long
 * as it is open.
 */
package dev.kubevend;
