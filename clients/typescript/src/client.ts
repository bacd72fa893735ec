import { randomUUID } from "node:crypto";
import {
  create,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { ServiceError } from "@grpc/grpc-js";

import { Channel } from "./channel.js";
import { systemClock } from "./clock.js";
import { clientError, fromServiceError } from "./errors.js";
import { IdentityService, type WhoAmIResponse } from "./gen/kubevend/v1/identity_service_pb.js";
import { IssueService } from "./gen/kubevend/v1/issue_service_pb.js";
import { issueRequest, type TokenRequest } from "./request.js";
import { type Settings, settingsFromEnvironment } from "./settings.js";
import { TokenSource } from "./source.js";
import { Token } from "./token.js";

const TIMEOUT_MS = 10_000;

/** What every call takes. */
export interface CallOptions {
  /** Ends the call; it then fails with the signal's reason. */
  signal?: AbortSignal | undefined;

  /** How long it may take, in milliseconds. Default: 10 s; streams, for ever. */
  timeoutMs?: number | undefined;
}

/** What `issue` takes besides the role. */
export interface IssueOptions extends TokenRequest, CallOptions {
  /** Tell what would happen, and issue nothing. Default: no. */
  validateOnly?: boolean | undefined;
}

/** A connection to kubevend. It connects when it is first used, and again when it has to. */
export class Client {
  readonly #channel: Channel;
  readonly #underWay = new Set<() => void>();
  readonly #sources = new Set<TokenSource>();
  #closed = false;

  /**
   * @param settings - how kubevend is reached, and who calls
   * @throws KubevendError SETTING_INVALID
   */
  constructor(settings: Settings) {
    this.#channel = new Channel(settings);
  }

  /**
   * A connection by KUBEVEND_ADDRESS, KUBEVEND_CA_FILE, and KUBEVEND_TOKEN_FILE or KUBEVEND_CLIENT_CERT_FILE and KUBEVEND_CLIENT_KEY_FILE.
   *
   * @throws KubevendError SETTING_MISSING, SETTING_INVALID
   */
  static fromEnvironment(): Client {
    return new Client(settingsFromEnvironment());
  }

  /**
   * Have one token issued. A program that needs one for longer asks for a {@link Client.tokenSource}.
   *
   * @param role - `quickstart` or `roles/quickstart`
   * @throws KubevendError see docs/errors.md
   */
  async issue(role: string, options: IssueOptions = {}): Promise<Token> {
    const request = issueRequest(role, options, options.requestId ?? randomUUID());
    request.validateOnly = options.validateOnly ?? false;
    return new Token(await this.call(IssueService.method.issueToken, request, options));
  }

  /** Who kubevend takes the caller for. */
  async whoAmI(options: CallOptions = {}): Promise<WhoAmIResponse> {
    return this.call(IdentityService.method.whoAmI, {}, options);
  }

  /**
   * A source that always has a valid token. It is closed with the client.
   *
   * @param role - `quickstart` or `roles/quickstart`
   */
  tokenSource(role: string, request: TokenRequest = {}): TokenSource {
    const source = new TokenSource(role, request, {
      open: (issue, signal) => this.stream(IssueService.method.streamTokens, { issue }, { signal }),
      clock: systemClock,
      random: Math.random,
      uuid: randomUUID,
      onClose: (closed) => this.#sources.delete(closed),
    });
    if (this.#closed) void source.close();
    else this.#sources.add(source);
    return source;
  }

  /**
   * Call any method with one answer: `client.call(LeaseService.method.revokeLease, { name })`, with services of `kubevend/v1`.
   *
   * @throws KubevendError see the method in protos/kubevend/v1
   */
  async call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    options.signal?.throwIfAborted();
    const message = create(method.input, request);
    const client = this.#open();
    const metadata = this.#channel.metadata();
    return new Promise((resolve, reject) => {
      const call = client.makeUnaryRequest(
        pathOf(method),
        serializer(method.input),
        deserializer(method.output),
        message,
        metadata,
        { deadline: Date.now() + (options.timeoutMs ?? TIMEOUT_MS) },
        (error, reply) => {
          release();
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- a signal's reason can be anything
          if (error) reject(this.#failure(error, options.signal));
          else resolve(reply as MessageShape<O>);
        },
      );
      const release = this.#hold(() => {
        call.cancel();
      }, options.signal);
    });
  }

  /**
   * Call any method with many answers: `for await (const reply of client.stream(...))`. Leaving the loop ends the call.
   *
   * @throws KubevendError see the method in protos/kubevend/v1
   */
  async *stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): AsyncGenerator<MessageShape<O>, void, undefined> {
    options.signal?.throwIfAborted();
    const { timeoutMs } = options;
    const call = this.#open().makeServerStreamRequest(
      pathOf(method),
      serializer(method.input),
      deserializer(method.output),
      create(method.input, request),
      this.#channel.metadata(),
      timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs },
    );
    const release = this.#hold(() => {
      call.cancel();
    }, options.signal);
    // Its end after the loop was left is nobody's error.
    call.on("error", () => undefined);
    try {
      for await (const reply of call) yield reply as MessageShape<O>;
    } catch (error) {
      throw this.#failure(error as ServiceError, options.signal);
    } finally {
      release();
      call.cancel();
    }
  }

  /** End all calls and sources, and disconnect. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#sources].map((source) => source.close()));
    for (const cancel of this.#underWay) cancel();
    this.#channel.close();
  }

  /** The same, at the end of an `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #open(): ReturnType<Channel["current"]> {
    if (this.#closed) throw closedError();
    return this.#channel.current();
  }

  /** Have a call ended by its signal and by `close`, until it has ended. */
  #hold(cancel: () => void, signal: AbortSignal | undefined): () => void {
    this.#underWay.add(cancel);
    signal?.addEventListener("abort", cancel);
    return () => {
      this.#underWay.delete(cancel);
      signal?.removeEventListener("abort", cancel);
    };
  }

  #failure(error: ServiceError, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted === true) return signal.reason;
    return this.#closed ? closedError() : fromServiceError(error);
  }
}

/**
 * Connect to kubevend.
 *
 * @param settings - by default those in the environment: see {@link Client.fromEnvironment}
 * @throws KubevendError SETTING_MISSING, SETTING_INVALID
 */
export function connect(settings: Settings = settingsFromEnvironment()): Client {
  return new Client(settings);
}

function closedError(): Error {
  return clientError("CLIENT_CLOSED", "This client was closed. Make another one, or close it later.");
}

function pathOf(method: DescMethodUnary | DescMethodServerStreaming): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function serializer<T extends DescMessage>(schema: T): (message: MessageShape<T>) => Buffer {
  return (message) => Buffer.from(toBinary(schema, message));
}

function deserializer<T extends DescMessage>(schema: T): (bytes: Buffer) => MessageShape<T> {
  return (bytes) => fromBinary(schema, bytes);
}
