import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { after, before, beforeEach, describe, it } from "node:test";

import { CoreV1Api, KubeConfig } from "@kubernetes/client-node";

import { kubeConfig, type Tokens } from "../src/kubernetes.js";
import { Token } from "../src/token.js";
import type { IssueTokenResponse } from "../src/v1.js";
import { tokenReply } from "./support/replies.js";

/** An API server that knows one token, over plain HTTP on loopback. */
describe("a KubeConfig with a source", () => {
  let server: Server, address: string, seen: string[], bodies: string[], good: string;
  let invalidated: string[], current: string;

  const tokens: Tokens = {
    token: () => Promise.resolve(new Token(tokenReply(current).event.value as IssueTokenResponse)),
    invalidate: (token) => {
      invalidated.push(String(token));
      current = "second";
    },
  };

  before(async () => {
    server = createServer((request: IncomingMessage, response) => {
      void text(request).then((body) => {
        bodies.push(body);
        const shown = String(request.headers.authorization);
        seen.push(`${String(request.method)} ${shown}`);
        response.writeHead(shown === `Bearer ${good}` ? 200 : 401, { "content-type": "application/json" });
        response.end(JSON.stringify({ apiVersion: "v1", kind: "ConfigMapList", metadata: {}, items: [] }));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });

  after(() => {
    server.close();
    server.closeAllConnections();
  });

  beforeEach(() => {
    [seen, bodies, invalidated, current, good] = [[], [], [], "first", "first"];
  });

  /** A cluster that may be spoken to without TLS, and a user whose token nobody is to see. */
  const cluster = (): KubeConfig => {
    const config = new KubeConfig();
    config.loadFromClusterAndUser({ name: "c", server: address, skipTLSVerify: true }, { name: "u", token: "other" });
    return config;
  };

  const api = (): CoreV1Api => kubeConfig(tokens, { from: cluster() }).makeApiClient(CoreV1Api);

  it("asks for the token of each request", async () => {
    const client = api();
    await client.listNamespacedConfigMap({ namespace: "apps" });
    current = good = "next";
    await client.listNamespacedConfigMap({ namespace: "apps" });
    assert.deepEqual(seen, ["GET Bearer first", "GET Bearer next"]);
    assert.deepEqual(invalidated, []);
  });

  it("tells the source of a 401, and sends the request once more, with its body", async () => {
    good = "second";
    await api().createNamespacedConfigMap({ namespace: "apps", body: { metadata: { name: "a" } } });
    assert.deepEqual(seen, ["POST Bearer first", "POST Bearer second"]);
    assert.deepEqual(invalidated, ["first"]);
    assert.equal(bodies[0], bodies[1]);
    assert.match(String(bodies[0]), /"name":"a"/);
  });

  it("does so once only", async () => {
    good = "none";
    await assert.rejects(api().listNamespacedConfigMap({ namespace: "apps" }), { code: 401 });
    assert.equal(seen.length, 2);
  });

  it("takes the cluster and the namespace of another KubeConfig, and nothing of its user", async () => {
    const from = cluster();
    from.contexts = from.contexts.map((context) => ({ ...context, namespace: "apps" }));
    const config = kubeConfig(tokens, { from });
    await config.makeApiClient(CoreV1Api).listNamespacedConfigMap({ namespace: "apps" });
    assert.deepEqual(seen, ["GET Bearer first"]);
    assert.equal(config.getContextObject(config.getCurrentContext())?.namespace, "apps");
    assert.doesNotMatch(config.exportConfig(), /first|other/);
  });

  it("says so where there is no cluster", () => {
    const invalid = { code: "CLIENT", reason: "SETTING_INVALID" };
    assert.throws(() => kubeConfig(tokens, { from: new KubeConfig() }), invalid);
    assert.equal(process.env["KUBERNETES_SERVICE_HOST"], undefined);
    assert.throws(() => kubeConfig(tokens), invalid);
  });

  it("gives watches a valid token when they begin", async () => {
    const options: { headers?: Record<string, string> } = {};
    await kubeConfig(tokens, { from: cluster() }).applyToHTTPSOptions(options);
    assert.equal(options.headers?.["Authorization"], "Bearer first");
  });
});
