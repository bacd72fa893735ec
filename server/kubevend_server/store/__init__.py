"""The store: configs, roles, leases, and the head of the audit chain, in SQL."""
