import { CoreV1Api } from "@kubernetes/client-node";

import { Client, type IssueOptions, type TokenRequest, type TokenSource } from "../src/index.js";
import { kubeConfig, type Tokens } from "../src/kubernetes.js";
import { describeToken, digest } from "./answers.js";
import { Load, noting } from "./load.js";

/** One line of stdin. */
export interface Command {
  id: number;
  do: string;
  source?: string;
  role?: string;
  namespace?: string;
  service_account_name?: string;
  ttl_seconds?: number;
  min_ttl_seconds?: number;
  audiences?: string[];
  request_id?: string;
  validate_only?: boolean;
  timeout_ms?: number;
  count?: number;
  workers?: number;
}

class Opened {
  readonly revoked: string[] = [];
  readonly refused: string[] = [];
  readonly api: CoreV1Api;
  load: Load | undefined;
  readonly used = new Set<string>();

  constructor(readonly source: TokenSource) {
    source.on("revoked", (lease) => this.revoked.push(lease));
    source.on("refused", ({ reason }) => this.refused.push(reason));
    this.api = apiWith(noting(source, this.used));
  }

  use(): Promise<unknown> {
    return this.api.listNamespacedConfigMap({ namespace: process.env["NAMESPACE"] ?? "default" });
  }
}

let client: Client | undefined;
const opened = new Map<string, Opened>();

const COMMANDS: Record<string, (command: Command) => Promise<object>> = {
  async issue(command) {
    const token = await connected().issue(command.role ?? "", issueOptions(command));
    const warnings = token.warnings.map(({ reason }) => reason);
    const { grantedTtlSeconds: granted_ttl_seconds, replayed } = token;
    return { ...describeToken(token), granted_ttl_seconds, replayed, warnings };
  },
  async whoami() {
    const { name } = await connected().whoAmI();
    return { name };
  },
  async open(command) {
    await opened.get(named(command))?.source.close();
    opened.set(named(command), new Opened(connected().tokenSource(command.role ?? "", tokenRequest(command))));
    return { ok: true };
  },
  async token(command) {
    return describeToken(await at(command).source.token({ timeoutMs: command.timeout_ms }));
  },
  async tokens(command) {
    const { source } = at(command);
    const waiting = Array.from({ length: command.count ?? 1 }, () => source.token({ timeoutMs: command.timeout_ms }));
    const digests = (await Promise.all(waiting)).map(({ value }) => digest(value));
    return { tokens: [...new Set(digests)] };
  },
  async invalidate(command) {
    const { source } = at(command);
    source.invalidate(await source.token({ timeoutMs: command.timeout_ms }));
    return { ok: true };
  },
  told(command) {
    const { revoked, refused } = at(command);
    return Promise.resolve({ revoked, refused });
  },
  async use(command) {
    await at(command).use();
    return { ok: true };
  },
  load_start(command) {
    const one = at(command);
    one.used.clear();
    one.load = new Load(command.workers ?? 1, () => one.use(), one.used);
    return Promise.resolve({ ok: true });
  },
  async load_stop(command) {
    const { load } = at(command);
    if (load === undefined) throw new Error("no load was started");
    return load.stop();
  },
  async close(command) {
    await at(command).source.close();
    return { ok: true };
  },
};

/** Do what a command says. */
export async function answer(command: Command): Promise<object> {
  const act = COMMANDS[command.do];
  if (act === undefined) throw new Error(`there is no command ${command.do}`);
  return act(command);
}

/** End everything. */
export async function closeAll(): Promise<void> {
  for (const { load } of opened.values()) await load?.stop();
  await client?.close();
}

function connected(): Client {
  return (client ??= Client.fromEnvironment());
}

function named({ source }: Command): string {
  return source ?? "";
}

function at(command: Command): Opened {
  const found = opened.get(named(command));
  if (found === undefined) throw new Error(`no source ${named(command)} was opened`);
  return found;
}

function apiWith(tokens: Tokens): CoreV1Api {
  const [server, caFile] = [process.env["KUBERNETES_HOST"], process.env["KUBERNETES_CA_FILE"]];
  return kubeConfig(tokens, { server, caFile }).makeApiClient(CoreV1Api);
}

function tokenRequest(command: Command): TokenRequest {
  return {
    namespace: command.namespace,
    serviceAccountName: command.service_account_name,
    ttlSeconds: command.ttl_seconds,
    minTtlSeconds: command.min_ttl_seconds,
    audiences: command.audiences,
    requestId: command.request_id,
  };
}

function issueOptions(command: Command): IssueOptions {
  return { ...tokenRequest(command), validateOnly: command.validate_only, timeoutMs: command.timeout_ms };
}
