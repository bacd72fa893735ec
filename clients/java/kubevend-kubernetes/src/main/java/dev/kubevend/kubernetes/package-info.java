/** Kubernetes clients that show tokens from a {@link dev.kubevend.TokenSource}. */
package dev.kubevend.kubernetes;
