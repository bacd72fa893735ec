"""The rights that kubevend needs in a cluster, what holds it to their purpose, and both as YAML.

`needs` says which rights roles need, `manifests` writes them as RBAC, and `admission` writes the policies that hold
kubevend to what RBAC cannot express.
"""
