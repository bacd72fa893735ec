import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";

import { create } from "@bufbuild/protobuf";
import { Metadata, type Server, type ServerUnaryCall, type ServerWritableStream, status } from "@grpc/grpc-js";

import { Client } from "../src/client.js";
import { KubevendError } from "../src/errors.js";
import {
  type IssueTokenRequest,
  type IssueTokenResponse,
  IssueTokenResponseSchema,
  IssueService,
  type StreamTokensRequest,
  type StreamTokensResponse,
} from "../src/v1.js";
import { refusal, serve } from "./support/loopback-server.js";
import { tokenReply } from "./support/replies.js";

type Call = ServerUnaryCall<IssueTokenRequest, IssueTokenResponse>;
type StreamCall = ServerWritableStream<StreamTokensRequest, StreamTokensResponse>;

function first(streams: readonly StreamCall[]): StreamCall {
  const [found] = streams;
  assert(found !== undefined, "no stream was opened");
  return found;
}

describe("a client", () => {
  const folder = mkdtempSync(join(tmpdir(), "kubevend-"));
  const tokenFile = join(folder, "token");
  let server: Server, address: string, client: Client;
  let calls: Call[], streams: StreamCall[];
  /** What to answer with, in turn: an error, nothing at all, or what is asked for. */
  let answers: (ReturnType<typeof refusal> | "silence")[];

  before(async () => {
    ({ server, address } = await serve(
      (call, answer) => {
        calls.push(call);
        const next = answers.shift();
        if (next === undefined)
          answer(null, create(IssueTokenResponseSchema, { token: "t", grantedTtl: { seconds: 60n } }));
        else if (next !== "silence") answer(next);
      },
      (call) => {
        streams.push(call);
        call.write(tokenReply(`stream ${streams.length}`));
      },
    ));
  });

  after(() => {
    server.forceShutdown();
    rmSync(folder, { recursive: true });
  });

  beforeEach(() => {
    writeFileSync(tokenFile, "first\n");
    [calls, streams, answers] = [[], [], []];
    client = new Client({ address, plaintext: true, tokenFile });
  });

  afterEach(() => client.close());

  const requests = (): IssueTokenRequest[] => calls.map(({ request }) => request);

  it("asks for what it is asked for, and makes a request id of its own", async () => {
    await client.issue("ci", {
      ttlSeconds: 90,
      minTtlSeconds: 60,
      audiences: ["a"],
      namespace: "apps",
      serviceAccountName: "demo",
    });
    await client.issue("roles/ci", { requestId: "mine", validateOnly: true, clusterWide: true });
    const [full, bare] = requests();
    assert.deepEqual(
      [full?.role, full?.ttl?.seconds, full?.minTtl?.seconds, full?.audiences],
      ["roles/ci", 90n, 60n, ["a"]],
    );
    assert.deepEqual([full?.namespace, full?.serviceAccountName, full?.validateOnly], ["apps", "demo", false]);
    assert.match(String(full?.requestId), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    assert.deepEqual(
      [bare?.role, bare?.ttl, bare?.requestId, bare?.validateOnly],
      ["roles/ci", undefined, "mine", true],
    );
    assert.equal(bare?.clusterWide, true);
  });

  it("shows the token that its file has at each call, and says what it is", async () => {
    await client.issue("ci");
    writeFileSync(tokenFile, "another");
    await client.issue("ci");
    assert.deepEqual(
      calls.map(({ metadata }) => metadata.get("authorization")),
      [["Bearer first"], ["Bearer another"]],
    );
    assert.match(String(calls[0]?.metadata.get("user-agent")[0]), /^kubevend-typescript\/0\.1\.0 /);
  });

  it("tries again where the server is unavailable, by the same request id, up to four times", async () => {
    answers = [refusal(status.UNAVAILABLE, "A"), refusal(status.UNAVAILABLE, "A")];
    await client.issue("ci");
    assert.equal(calls.length, 3);
    assert.equal(new Set(requests().map(({ requestId }) => requestId)).size, 1);
    answers = Array.from({ length: 9 }, () => refusal(status.UNAVAILABLE, "A"));
    await assert.rejects(client.issue("ci"), { code: "UNAVAILABLE" });
    assert.equal(calls.length, 3 + 4);
  });

  it("tries nothing else again, and takes the error apart", async () => {
    answers = [refusal(status.DEADLINE_EXCEEDED, "CALL_TOO_SLOW")];
    await assert.rejects(client.issue("ci"), { code: "DEADLINE_EXCEEDED", reason: "CALL_TOO_SLOW" });
    answers = [refusal(status.INVALID_ARGUMENT, "FIELD_INVALID")];
    await assert.rejects(client.issue("ci"), (error) => {
      assert(error instanceof KubevendError);
      assert.deepEqual(Object.fromEntries(Object.entries(error)), {
        name: "KubevendError",
        code: "INVALID_ARGUMENT",
        reason: "FIELD_INVALID",
        metadata: { role: "roles/ci" },
        violations: [{ field: "ttl", description: "must be" }],
        retryAfterMs: 1500,
        requestId: "call-1",
      });
      return error.message === "no";
    });
    assert.equal(calls.length, 2);
  });

  it("takes an error whose details cannot be read for what its status says", async () => {
    const metadata = new Metadata();
    metadata.set("grpc-status-details-bin", Buffer.from([255, 255]));
    answers = [{ code: status.NOT_FOUND, details: "gone", metadata }];
    await assert.rejects(client.issue("ci"), { code: "NOT_FOUND", reason: "", message: "gone" });
  });

  it("ends a call at its deadline, by its signal, and with close", async () => {
    answers = ["silence", "silence", "silence"];
    await assert.rejects(client.issue("ci", { timeoutMs: 50 }), { code: "DEADLINE_EXCEEDED", reason: "" });
    const abort = new AbortController();
    const aborted = assert.rejects(client.issue("ci", { signal: abort.signal }), /enough/);
    abort.abort(new Error("enough"));
    await aborted;
    await assert.rejects(client.issue("ci", { signal: abort.signal }), /enough/);
    const closed = assert.rejects(client.issue("ci"), { code: "CLIENT", reason: "CLIENT_CLOSED" });
    await client.close();
    await closed;
    await assert.rejects(client.issue("ci"), { code: "CLIENT", reason: "CLIENT_CLOSED" });
    await assert.rejects(client.tokenSource("ci").token(), { code: "CLIENT", reason: "SOURCE_CLOSED" });
  });

  it("says UNAVAILABLE where nobody answers", async () => {
    const alone = new Client({ address: "127.0.0.1:9", plaintext: true });
    await assert.rejects(alone.issue("ci"), { code: "UNAVAILABLE", reason: "" });
    await alone.close();
  });

  it("ends a stream for the server, too, where its loop is left or its signal aborted", async () => {
    const open = (signal?: AbortSignal): AsyncGenerator<StreamTokensResponse> =>
      client.stream(IssueService.method.streamTokens, { issue: { role: "roles/ci" } }, { signal });
    for await (const reply of open()) {
      assert.equal(reply.event.case, "token");
      break;
    }
    await once(first(streams), "cancelled");
    const abort = new AbortController();
    await assert.rejects(async () => {
      for await (const reply of open(abort.signal)) if (reply.event.case) abort.abort(new Error("enough"));
    }, /enough/);
    await once(first(streams.slice(1)), "cancelled");
  });

  it("closes its sources with it, and with them their streams", async () => {
    const source = client.tokenSource("ci");
    assert.equal((await source.token()).value, "stream 1");
    const cancelled = once(first(streams), "cancelled");
    await client.close();
    await cancelled;
    await assert.rejects(source.token(), { reason: "SOURCE_CLOSED" });
  });
});
