/**
 * The messages and services of the API, as generated from `protos/kubevend/v1`: for `client.call` and `client.stream`.
 *
 * @packageDocumentation
 */
export * from "./gen/kubevend/v1/audit_event_pb.js";
export * from "./gen/kubevend/v1/config_service_pb.js";
export * from "./gen/kubevend/v1/identity_service_pb.js";
export * from "./gen/kubevend/v1/issue_service_pb.js";
export * from "./gen/kubevend/v1/lease_service_pb.js";
export * from "./gen/kubevend/v1/role_service_pb.js";
export * from "./gen/kubevend/v1/warning_pb.js";
