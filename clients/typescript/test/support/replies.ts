/** Answers of a server, for tests that need none. */
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";

import { durationOf } from "../../src/durations.js";
import { IssueTokenResponseSchema, type StreamTokensResponse, StreamTokensResponseSchema } from "../../src/v1.js";

/** A token that lives for so many seconds, and the next of which comes after `nextSeconds`; `value` is none that a cluster would take. */
export function tokenReply(
  value: string,
  ttlSeconds = 600,
  lease = `leases/${value}`,
  nextSeconds = (ttlSeconds * 2) / 3,
): StreamTokensResponse {
  const end = Date.parse("2026-11-24T02:51:02Z");
  const expiration = timestampFromMs(end);
  const nextTokenTime = timestampFromMs(end - (ttlSeconds - nextSeconds) * 1000);
  const token = create(IssueTokenResponseSchema, {
    token: value,
    expiration,
    tokenExpiration: expiration,
    grantedTtl: durationOf(ttlSeconds),
    namespace: "apps",
    serviceAccount: "demo",
    audiences: ["https://kubernetes.default.svc"],
    lease,
    jti: `jti-${value}`,
  });
  return create(StreamTokensResponseSchema, { event: { case: "token", value: token }, nextTokenTime });
}

/** Why a stream ends. */
export function noticeReply(reason: string, lease: string, message = reason): StreamTokensResponse {
  return create(StreamTokensResponseSchema, { event: { case: "notice", value: { reason, lease, message } } });
}
