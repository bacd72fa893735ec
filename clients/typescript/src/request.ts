import { create } from "@bufbuild/protobuf";

import { durationOf } from "./durations.js";
import { type IssueTokenRequest, IssueTokenRequestSchema } from "./gen/kubevend/v1/issue_service_pb.js";

/** What a token is to be. What is left out the role decides. */
export interface TokenRequest {
  /** The ServiceAccount's namespace. Default: the only one that the role allows. */
  namespace?: string | undefined;

  /** The ServiceAccount's name. Default: the only one that the role allows. */
  serviceAccountName?: string | undefined;

  /** How long it should live, in whole seconds. Default: what the role says. */
  ttlSeconds?: number | undefined;

  /** The shortest life that is of use, in whole seconds: rather fail than get less. Default: any. */
  minTtlSeconds?: number | undefined;

  /** Its audiences. Default: what the role says. */
  audiences?: readonly string[] | undefined;

  /** Rights in every namespace, where the role allows that. Default: no. */
  clusterWide?: boolean | undefined;

  /**
   * A UUID, version 4. Sent again with the same fields it gets another token of the same lease, and no second lease. Default: one
   * of the library's own making.
   */
  requestId?: string | undefined;
}

/** The message for it. `role` is `quickstart` or `roles/quickstart`. */
export function issueRequest(role: string, request: TokenRequest, requestId: string): IssueTokenRequest {
  const { ttlSeconds, minTtlSeconds, audiences = [] } = request;
  return create(IssueTokenRequestSchema, {
    role: role.includes("/") ? role : `roles/${role}`,
    namespace: request.namespace ?? "",
    serviceAccountName: request.serviceAccountName ?? "",
    ...(ttlSeconds === undefined ? {} : { ttl: durationOf(ttlSeconds) }),
    ...(minTtlSeconds === undefined ? {} : { minTtl: durationOf(minTtlSeconds) }),
    audiences: [...audiences],
    clusterWide: request.clusterWide ?? false,
    requestId,
  });
}
