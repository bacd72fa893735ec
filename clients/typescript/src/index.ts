/**
 * Short-lived Kubernetes tokens from kubevend.
 *
 * @packageDocumentation
 */
export { type CallOptions, Client, connect, type IssueOptions } from "./client.js";
export { type Code, type ErrorFacts, type FieldViolation, KubevendError } from "./errors.js";
export type { TokenRequest } from "./request.js";
export { type Settings, settingsFromEnvironment } from "./settings.js";
export { TokenSource, type TokenSourceEvents, type WaitOptions } from "./source.js";
export { Token } from "./token.js";
export { VERSION } from "./version.js";
