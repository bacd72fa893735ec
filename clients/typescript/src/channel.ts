import { Client as GrpcClient, type ClientOptions, credentials, Metadata } from "@grpc/grpc-js";

import { systemClock } from "./clock.js";
import { clientError } from "./errors.js";
import { WatchedFile } from "./files.js";
import { checkSettings, named, type Settings } from "./settings.js";
import { VERSION } from "./version.js";

// https://github.com/grpc/proposal/blob/master/A6-client-retries.md. Only UNAVAILABLE: nothing was done then, or it is tied
// to a request id. Not for streams of tokens, which a TokenSource opens again itself, with pauses of its own.
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: "0.2s",
        maxBackoff: "2s",
        backoffMultiplier: 2,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
    { name: [{ service: "kubevend.v1.IssueService", method: "StreamTokens" }] },
  ],
};

const RETIRE_MS = 60_000;

const OPTIONS: ClientOptions = {
  "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
  // Otherwise TXT records of the DNS could replace it.
  "grpc.service_config_disable_resolution": 1,
  "grpc.primary_user_agent": `kubevend-typescript/${VERSION}`,
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // gRPC's own default lets a client wait up to 2 minutes after an outage before it connects again.
  "grpc.initial_reconnect_backoff_ms": 200,
  "grpc.max_reconnect_backoff_ms": 5_000,
  // Else channels of one process with other certificates could share a connection.
  "grpc.use_local_subchannel_pool": 1,
};

// What is sent in plain text stays on this machine: gRPC asks `http_proxy` for loopback addresses, too.
const PLAIN_OPTIONS: ClientOptions = { "grpc.enable_http_proxy": 0 };

/**
 * The connection to kubevend, by the credentials that the files hold now.
 *
 * Other certificates make another connection, for the calls that begin from then on; those under way end on the one that
 * they began on.
 */
export class Channel {
  readonly #address: string;
  readonly #plaintext: boolean;
  readonly #token: WatchedFile | undefined;
  readonly #certificates: (WatchedFile | undefined)[];
  #shown: (Buffer | undefined)[] = [];
  #client: GrpcClient | undefined;
  /** Those that have made way for others, each with what takes its closing back. */
  readonly #retired = new Map<GrpcClient, () => void>();

  /** @throws KubevendError SETTING_INVALID */
  constructor(settings: Settings) {
    checkSettings(settings);
    this.#address = settings.address;
    this.#plaintext = settings.plaintext ?? false;
    const file = (name: "tokenFile" | "caFile" | "clientCertFile" | "clientKeyFile"): WatchedFile | undefined => {
      const path = settings[name];
      return path === undefined ? undefined : new WatchedFile(path, named(name));
    };
    this.#token = file("tokenFile");
    this.#certificates = [file("caFile"), file("clientKeyFile"), file("clientCertFile")];
  }

  /**
   * What to make the next call with.
   *
   * @throws KubevendError FILE_UNREADABLE, SETTING_INVALID: what the files hold cannot be used, and never could
   */
  current(): GrpcClient {
    const now = this.#certificates.map((file) => file?.read());
    const client = this.#client;
    if (client !== undefined && now.every((content, i) => content === this.#shown[i])) return client;
    return this.#reconnect(now, client);
  }

  /**
   * The caller's token as the file has it now, for one call. It goes with the call, and not as gRPC's call credentials, since
   * those turn a file that cannot be read into an UNAUTHENTICATED that does not tell.
   *
   * @throws KubevendError FILE_UNREADABLE
   */
  metadata(): Metadata {
    const metadata = new Metadata();
    const token = this.#token?.read().toString().trim();
    if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) {
      // gRPC would refuse it, too, with words that have all of it in them.
      const hint = "write the token alone into it, or name another file in KUBEVEND_TOKEN_FILE (tokenFile)";
      throw clientError("FILE_UNREADABLE", `The token file holds no token, or more than one: ${hint}.`);
    }
    if (token !== undefined) metadata.set("authorization", `Bearer ${token}`);
    return metadata;
  }

  /** Close it; calls under way end by themselves. */
  close(): void {
    for (const [client, cancel] of this.#retired) {
      cancel();
      client.close();
    }
    this.#retired.clear();
    this.#client?.close();
    this.#client = undefined;
  }

  /** Close a connection that makes way for another, but only when no call still waits for it to come about. */
  #retire(client: GrpcClient): void {
    const close = (): void => {
      this.#retired.delete(client);
      client.close();
    };
    this.#retired.set(client, systemClock.after(RETIRE_MS, close, false));
  }

  #reconnect(contents: (Buffer | undefined)[], before: GrpcClient | undefined): GrpcClient {
    const [ca, key, cert] = contents;
    try {
      const secure = this.#plaintext ? credentials.createInsecure() : credentials.createSsl(ca, key, cert);
      const options = this.#plaintext ? { ...OPTIONS, ...PLAIN_OPTIONS } : OPTIONS;
      const next = new GrpcClient(this.#address, secure, options);
      if (before !== undefined) this.#retire(before);
      this.#client = next;
      this.#shown = contents;
      return next;
    } catch (error) {
      // A certificate and a key that do not belong together: one of them has been replaced already, the other not yet.
      if (before !== undefined) return before;
      throw this.#unusable(error);
    }
  }

  #unusable(cause: unknown): Error {
    const names = this.#certificates
      .filter((file) => file !== undefined)
      .map(({ setting, path }) => `${setting}: ${path}`);
    const why = cause instanceof Error ? cause.message : String(cause);
    const advice = "They must be PEM, and the key that of the certificate.";
    return clientError("SETTING_INVALID", `TLS cannot be set up with ${names.join(", ")}: ${why}. ${advice}`, cause);
  }
}
