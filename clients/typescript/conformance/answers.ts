import { createHash } from "node:crypto";
import { ApiException } from "@kubernetes/client-node";

import { KubevendError, type Token } from "../src/index.js";

/** What is told of a token in place of it. */
export function digest(token: string): string {
  return token === "" ? "" : createHash("sha256").update(token).digest("hex").slice(0, 16);
}

/** What is told of a token from a source. */
export function describeToken(token: Token): { token: string; lease: string; jti: string } {
  return { token: digest(token.value), lease: token.lease, jti: token.jti };
}

/** What is told of an error. */
export function describeError(error: unknown): object {
  if (error instanceof KubevendError) {
    const { code, reason, message, metadata, violations, requestId } = error;
    return { code, reason, message, metadata, violations: violations.map(({ field }) => field), request_id: requestId };
  }
  const code = error instanceof ApiException ? `HTTP_${error.code}` : "DEFECT";
  const [name, message] = error instanceof Error ? [error.name, error.message] : ["", String(error)];
  return { code, reason: name, message, metadata: {}, violations: [] };
}
