import { timestampDate } from "@bufbuild/protobuf/wkt";

import type { IssueTokenResponse } from "./gen/kubevend/v1/issue_service_pb.js";
import type { Warning } from "./gen/kubevend/v1/warning_pb.js";
import { secondsOf } from "./durations.js";

/**
 * A token, and what kubevend says about it.
 *
 * The token itself is in {@link Token.value} only: `toString`, `JSON.stringify` and `console.log` show all the rest.
 */
export class Token {
  readonly #value: string;

  /** The lease's end: until when kubevend answers for the token. */
  readonly expiration: Date;

  /** The latest moment at which the cluster still accepts the token. */
  readonly tokenExpiration: Date;

  /** How long the token lives, from its issuing to `expiration`. */
  readonly grantedTtlSeconds: number;

  /** The ServiceAccount's namespace. */
  readonly namespace: string;

  /** The ServiceAccount's name. */
  readonly serviceAccount: string;

  /** The token's audiences. */
  readonly audiences: readonly string[];

  /** The lease, `leases/{lease}`. Empty with `validateOnly`. */
  readonly lease: string;

  /** The token's id, which Kubernetes' audit log has in every request made with it. Empty with `validateOnly`. */
  readonly jti: string;

  /** What came out otherwise than it was asked, and because of whom. */
  readonly warnings: readonly Warning[];

  /** Whether this is another token of a lease that an earlier call with the same request id got. */
  readonly replayed: boolean;

  /** Takes what the server answered. {@link Client.issue} and {@link TokenSource.token} do that. */
  constructor(reply: IssueTokenResponse) {
    this.#value = reply.token;
    this.expiration = dateOf(reply.expiration);
    this.tokenExpiration = dateOf(reply.tokenExpiration);
    this.grantedTtlSeconds = secondsOf(reply.grantedTtl);
    this.namespace = reply.namespace;
    this.serviceAccount = reply.serviceAccount;
    this.audiences = reply.audiences;
    this.lease = reply.lease;
    this.jti = reply.jti;
    this.warnings = reply.warnings;
    this.replayed = reply.replayed;
  }

  /** The token: what goes behind `Authorization: Bearer`. Empty with `validateOnly`. */
  get value(): string {
    return this.#value;
  }

  /** Whose token it is and until when, without the token. */
  toString(): string {
    return `Token(${this.lease}, ${this.namespace}/${this.serviceAccount}, until ${this.expiration.toISOString()})`;
  }

  /** Everything but the token, for `JSON.stringify`. */
  toJSON(): object {
    const {
      expiration,
      tokenExpiration,
      grantedTtlSeconds,
      namespace,
      serviceAccount,
      audiences,
      lease,
      jti,
      replayed,
    } = this;
    const warnings = this.warnings.map(({ reason, message, metadata }) => ({ reason, message, metadata }));
    return {
      expiration,
      tokenExpiration,
      grantedTtlSeconds,
      namespace,
      serviceAccount,
      audiences,
      lease,
      jti,
      warnings,
      replayed,
    };
  }

  /** What `console.log` and `util.inspect` show: the same as `toString`. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
}

function dateOf(timestamp: IssueTokenResponse["expiration"]): Date {
  return timestamp === undefined ? new Date(0) : timestampDate(timestamp);
}
