"""The adapter to Kubernetes: the only part that knows its client. Every failure leaves it as one of our own errors."""
