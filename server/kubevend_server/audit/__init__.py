"""The audit log: one JSON line for each event, chained by a keyed hash, durable before an answer leaves.

`docs/audit.md` has the table of fields; `protos/kubevend/v1/audit_event.proto` is where they are defined.
"""
