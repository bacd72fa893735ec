/**
 * Tokens of kubevend for `@kubernetes/client-node`.
 *
 * @packageDocumentation
 */
import type { OutgoingHttpHeaders } from "node:http";
import type { RequestOptions } from "node:https";
import {
  type ApiConstructor,
  type ApiType,
  type HttpLibrary,
  KubeConfig,
  type User,
  wrapHttpLibrary,
} from "@kubernetes/client-node";

import { clientError } from "./errors.js";
import type { TokenSource } from "./source.js";

const NAME = "kubevend";

type HttpRequest = Parameters<HttpLibrary["send"]>[0];
type HttpResponse = Awaited<ReturnType<ReturnType<HttpLibrary["send"]>["toPromise"]>>;

/** Where tokens come from: a {@link TokenSource}, or something like it. */
export type Tokens = Pick<TokenSource, "token" | "invalidate">;

/** Which cluster. Default: the one that this process runs in. */
export interface ClusterOptions {
  /** The API server: `https://10.0.0.1:6443`. */
  server?: string | undefined;

  /** PEM: the authorities that vouch for it. */
  caFile?: string | undefined;

  /** A KubeConfig whose current cluster it is, in place of `server` and `caFile`. */
  from?: KubeConfig | undefined;

  /** The namespace of the context. */
  namespace?: string | undefined;
}

/**
 * A KubeConfig that asks a source for the token of each request: `kubeConfig(source).makeApiClient(CoreV1Api)`.
 *
 * Clients made by it tell the source of a 401, and send the request once more with the next token. Watches, logs and exec
 * sessions take a valid token when they begin; a 401 is for their caller to see.
 *
 * @param source - where the tokens come from
 * @param options - which cluster; by default the one that this process runs in
 * @throws KubevendError SETTING_INVALID: no cluster is named, and this process runs in none
 */
export function kubeConfig(source: Tokens, options: ClusterOptions = {}): KubeConfig {
  return new SourceConfig(source, options);
}

class SourceConfig extends KubeConfig {
  readonly #source: Tokens;

  constructor(source: Tokens, options: ClusterOptions) {
    super();
    this.#source = source;
    this.addAuthenticator({
      isAuthProvider: (user) => user.name === NAME,
      applyAuthentication: async (_user: User, request: RequestOptions) => {
        const headers = request.headers as OutgoingHttpHeaders | undefined;
        request.headers = { ...headers, Authorization: bearer((await source.token()).value) };
      },
    });
    const found = configOf(options);
    const cluster = found.getCurrentCluster();
    if (cluster === null) throw invalid("`from` has no current cluster. Set its current context.");
    this.loadFromClusterAndUser(cluster, { name: NAME });
    const namespace = options.namespace ?? found.getContextObject(found.currentContext)?.namespace;
    if (namespace !== undefined) this.contexts = this.contexts.map((context) => ({ ...context, namespace }));
  }

  override makeApiClient<T extends ApiType>(apiClientType: ApiConstructor<T>): T {
    const source = this.#source;
    const made = function make(configuration: ConstructorParameters<ApiConstructor<T>>[0]): T {
      return new apiClientType({ ...configuration, httpApi: withSecondAttempt(configuration.httpApi, source) });
    };
    return super.makeApiClient(made as unknown as ApiConstructor<T>);
  }
}

function configOf({ server, caFile, from }: ClusterOptions): KubeConfig {
  if (from !== undefined) return from;
  const found = new KubeConfig();
  if (server !== undefined) {
    found.loadFromClusterAndUser(
      { name: NAME, server, skipTLSVerify: false, ...(caFile && { caFile }) },
      { name: NAME },
    );
  } else if (process.env["KUBERNETES_SERVICE_HOST"] !== undefined) found.loadFromCluster();
  else throw invalid("This process runs in no cluster. Name one: `server` and `caFile`, or `from`.");
  return found;
}

function invalid(message: string): Error {
  return clientError("SETTING_INVALID", message);
}

/** Tell the source of a 401, and send the request once more. It was refused before anything was done, whatever its method. */
function withSecondAttempt(http: HttpLibrary, source: Tokens): HttpLibrary {
  const send = async (request: HttpRequest): Promise<HttpResponse> => {
    const response = await http.send(request).toPromise();
    const shown = request.getHeaders()["Authorization"];
    if (response.httpStatusCode !== 401 || shown === undefined) return response;
    source.invalidate(shown.slice(bearer("").length));
    if (!isSendable(request.getBody())) return response;
    request.setHeaderParam("Authorization", bearer((await source.token({ signal: request.getSignal() })).value));
    return http.send(request).toPromise();
  };
  return wrapHttpLibrary({ send });
}

/** A form is a stream, which has been read by then. */
function isSendable(body: ReturnType<HttpRequest["getBody"]>): boolean {
  return body === undefined || typeof body === "string";
}

function bearer(token: string): string {
  return `Bearer ${token}`;
}
