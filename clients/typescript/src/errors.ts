import { fromBinary } from "@bufbuild/protobuf";
import { type Any, anyUnpack } from "@bufbuild/protobuf/wkt";
import { type ServiceError, status } from "@grpc/grpc-js";

import { secondsOf } from "./durations.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";

/** A gRPC status by its name; `CLIENT` for what this library itself has to say, without any server. */
export type Code = keyof typeof status | "CLIENT";

/** A field of the request that breaks its rule. */
export interface FieldViolation {
  /** The field, as `ttl`. */
  readonly field: string;
  /** What it must be. */
  readonly description: string;
}

/** What an error is made from; see the properties of {@link KubevendError}. */
export interface ErrorFacts {
  reason?: string;
  metadata?: Readonly<Record<string, string>>;
  violations?: readonly FieldViolation[];
  retryAfterMs?: number;
  requestId?: string;
  cause?: unknown;
}

// What another attempt alone does not change.
const PERMANENT: ReadonlySet<Code> = new Set<Code>([
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "PERMISSION_DENIED",
  "UNAUTHENTICATED",
  "FAILED_PRECONDITION",
  "UNIMPLEMENTED",
  "CLIENT",
]);

/**
 * Every error of this library, and every refusal of the server. The message says what to do.
 *
 * Only a call that was ended by an `AbortSignal` fails with something else: the signal's own reason, as with `fetch`.
 */
export class KubevendError extends Error {
  override readonly name = "KubevendError";

  /** The gRPC status, as `PERMISSION_DENIED`; `CLIENT` where the error comes from this library itself. */
  readonly code: Code;

  /**
   * Why, as docs/errors.md lists it: `ACCESS_DENIED`. With code `CLIENT`: `SETTING_MISSING`, `SETTING_INVALID`, `FILE_UNREADABLE`,
   * `CLIENT_CLOSED` or `SOURCE_CLOSED`. Empty where gRPC itself failed, as when there is no connection.
   */
  readonly reason: string;

  /** The facts in the message, by name. */
  readonly metadata: Readonly<Record<string, string>>;

  /** The fields at fault. */
  readonly violations: readonly FieldViolation[];

  /** How long to wait before the next attempt, where the server says so. */
  readonly retryAfterMs: number | undefined;

  /** Under which id kubevend's audit log has the call, where the server said so. */
  readonly requestId: string | undefined;

  /** Makes an error. */
  constructor(code: Code, message: string, facts: ErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.code = code;
    this.reason = facts.reason ?? "";
    this.metadata = facts.metadata ?? {};
    this.violations = facts.violations ?? [];
    this.retryAfterMs = facts.retryAfterMs;
    this.requestId = facts.requestId;
  }

  /** Whether another attempt alone would change nothing. */
  get permanent(): boolean {
    return PERMANENT.has(this.code);
  }
}

/** An error of this library's own. */
export function clientError(reason: string, message: string, cause?: unknown): KubevendError {
  return new KubevendError("CLIENT", message, { reason, cause });
}

/** What gRPC reports, with the details that the server sent along (google.rpc.Status in `grpc-status-details-bin`). */
export function fromServiceError(error: ServiceError): KubevendError {
  const code = (status[error.code] as Code | undefined) ?? "UNKNOWN";
  return new KubevendError(code, error.details, factsIn(error));
}

function factsIn(error: ServiceError): ErrorFacts {
  const facts: ErrorFacts = {};
  for (const detail of detailsOf(error)) {
    const info = anyUnpack(detail, ErrorInfoSchema);
    if (info) Object.assign(facts, { reason: info.reason, metadata: info.metadata });
    const request = anyUnpack(detail, BadRequestSchema);
    if (request) facts.violations = request.fieldViolations.map(({ field, description }) => ({ field, description }));
    const retry = anyUnpack(detail, RetryInfoSchema);
    if (retry) facts.retryAfterMs = secondsOf(retry.retryDelay) * 1000;
    const call = anyUnpack(detail, RequestInfoSchema);
    if (call) facts.requestId = call.requestId;
  }
  return facts;
}

function detailsOf(error: ServiceError): Any[] {
  // Errors that gRPC makes itself have no metadata, whatever the type says.
  const [bytes] = (error.metadata as typeof error.metadata | undefined)?.get("grpc-status-details-bin") ?? [];
  if (!(bytes instanceof Uint8Array)) return [];
  try {
    return fromBinary(StatusSchema, bytes).details;
  } catch {
    return []; // A proxy in between cut or made it; the status and its message are there all the same.
  }
}
