import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, it } from "node:test";

import { KubevendError } from "../src/errors.js";
import { TokenSource } from "../src/source.js";
import { ManualClock, settled } from "./support/manual-clock.js";
import { noticeReply, tokenReply } from "./support/replies.js";
import { ScriptedServer } from "./support/scripted-server.js";

describe("a source of tokens", () => {
  let clock: ManualClock, server: ScriptedServer, source: TokenSource, ids: number, told: unknown[][];

  beforeEach(() => {
    clock = new ManualClock();
    server = new ScriptedServer();
    ids = 0;
    told = [];
    const uuid = (): string => `id-${++ids}`;
    source = new TokenSource("ci", { ttlSeconds: 600 }, { open: server.open, clock, random: () => 1, uuid });
    source.on("revoked", (...what) => told.push(["revoked", ...what]));
    source.on("refused", ({ reason }) => told.push(["refused", reason]));
  });

  afterEach(async () => {
    await source.close();
    assert.equal(clock.timers.size, 0, "a timer is left");
  });

  /** Have a first token, and the stream that brought it. */
  async function begin(ttlSeconds = 600): Promise<void> {
    const waiting = source.token();
    await settled();
    await server.stream.send(tokenReply("first", ttlSeconds));
    assert.equal((await waiting).value, "first");
  }

  const value = async (): Promise<string> => (await source.token({ timeoutMs: 1000 })).value;

  it("opens one stream, on first use, for all who ask", async () => {
    assert.equal(server.streams.length, 0);
    const waiting = Array.from({ length: 50 }, () => source.token());
    await settled();
    await server.stream.send(tokenReply("first"));
    assert.deepEqual(new Set((await Promise.all(waiting)).map((token) => token.value)), new Set(["first"]));
    assert.equal(server.streams.length, 1);
    const { role, ttl, requestId } = server.stream.issue;
    assert.deepEqual([role, ttl?.seconds, requestId], ["roles/ci", 600n, "id-1"]);
  });

  it("hands out the newest token, and each until shortly before its end", async () => {
    await begin(600);
    await server.stream.send(tokenReply("second", 50));
    assert.equal(await value(), "second");
    await clock.pass(44.9);
    assert.equal(await value(), "second"); // 10 % of its life are left out
    await clock.pass(0.2);
    const waiting = source.token();
    await settled();
    await server.stream.send(tokenReply("third"));
    assert.equal((await waiting).value, "third");
  });

  it("serves the token that is there through an outage, and asks with growing pauses, by the same request id", async () => {
    await begin();
    for (const pause of [0.5, 1, 2, 4, 8, 16, 30, 30]) {
      await server.stream.end("UNAVAILABLE");
      assert.equal(clock.next, pause * 1000);
      assert.equal(await value(), "first");
      await clock.pass(pause);
    }
    assert.equal(server.streams.length, 9);
    assert.deepEqual(new Set(server.streams.map(({ issue }) => issue.requestId)), new Set(["id-1"]));
    await server.stream.send(tokenReply("second"));
    await server.stream.end("UNAVAILABLE");
    assert.equal(clock.next, 500);
  });

  it("waits for as long as the server says", async () => {
    await begin();
    await server.stream.end("RESOURCE_EXHAUSTED", "CALLER_LIMIT", 7000);
    assert.equal(clock.next, 7000);
  });

  it("opens the stream at once where the server stops, but not again and again", async () => {
    await begin();
    await server.stream.end("UNAVAILABLE", "SERVER_STOPPING");
    assert.equal(server.streams.length, 2);
    await server.stream.end("UNAVAILABLE", "SERVER_STOPPING");
    assert.equal(server.streams.length, 2);
  });

  it("opens the stream at once where the caller's own credential ended with it, and tells nobody", async () => {
    await begin();
    await server.stream.send(noticeReply("TOKEN_EXPIRED", "leases/first"));
    await server.stream.end("UNAUTHENTICATED", "TOKEN_EXPIRED");
    assert.equal(server.streams.length, 2);
    assert.deepEqual(told, []);
    await server.stream.end("UNAUTHENTICATED", "TOKEN_EXPIRED");
    assert.equal(clock.next, 10_000);
    assert.deepEqual(told, [["refused", "TOKEN_EXPIRED"]]);
  });

  it("takes a stream for dead that brings no token by 85 % of the life", async () => {
    await begin();
    await clock.pass(509);
    assert.equal(server.streams.length, 1);
    await clock.pass(1);
    assert.equal(server.streams.length, 2);
    assert.equal(await value(), "first");
    await clock.pass(30);
    assert.equal(server.streams.length, 2, "now with a pause");
    assert.equal(server.streams[1]?.signal.aborted, true);
  });

  it("raises a refusal at once, to those who wait and to those who come, and asks again from 5 s on", async () => {
    const waiting = assert.rejects(source.token(), { code: "PERMISSION_DENIED", reason: "ACCESS_DENIED" });
    await settled();
    await server.stream.end("PERMISSION_DENIED", "ACCESS_DENIED");
    await waiting;
    await assert.rejects(source.token(), { code: "PERMISSION_DENIED", reason: "ACCESS_DENIED" });
    assert.equal(clock.next, 10_000);
    await clock.pass(10);
    await server.stream.send(tokenReply("first"));
    assert.equal(await value(), "first");
    assert.deepEqual(told, []);
  });

  it("goes on trying until the deadline after a temporary failure, and then raises it", async () => {
    const waiting = source.token({ timeoutMs: 2000 });
    await settled();
    await server.stream.end("UNAVAILABLE", "KUBERNETES_UNREACHABLE");
    await clock.pass(0.5);
    assert.equal(server.streams.length, 2);
    const rejected = assert.rejects(waiting, { code: "UNAVAILABLE", reason: "KUBERNETES_UNREACHABLE" });
    await clock.pass(1.5);
    await rejected;
  });

  it("says so where nothing at all comes in time, and heeds a signal", async () => {
    const late = assert.rejects(source.token({ timeoutMs: 100 }), { code: "DEADLINE_EXCEEDED" });
    const abort = new AbortController();
    const aborted = assert.rejects(source.token({ signal: abort.signal }), /enough/);
    abort.abort(new Error("enough"));
    await clock.pass(0.1);
    await Promise.all([late, aborted]);
    await assert.rejects(source.token({ signal: abort.signal }), /enough/);
  });

  it("drops a token whose lease was ended, tells of it, and asks for a new lease", async () => {
    await begin();
    await server.stream.send(noticeReply("LEASE_REVOKED", "leases/first", "ended by somebody"));
    await server.stream.end("ABORTED", "LEASE_REVOKED");
    assert.deepEqual(told, [["revoked", "leases/first", "ended by somebody"]]);
    assert.equal(server.streams.length, 2);
    assert.equal(server.stream.issue.requestId, "id-2");
    const waiting = assert.rejects(source.token(), { reason: "ACCESS_DENIED" });
    await server.stream.end("PERMISSION_DENIED", "ACCESS_DENIED");
    await waiting;
  });

  it("tells once that no further token is allowed, and hands out the last one until its end", async () => {
    await begin();
    await server.stream.send(noticeReply("ACCESS_DENIED", "leases/first"));
    await server.stream.end("PERMISSION_DENIED", "ACCESS_DENIED");
    await clock.pass(30);
    await server.stream.end("PERMISSION_DENIED", "ACCESS_DENIED");
    assert.deepEqual(told, [["refused", "ACCESS_DENIED"]]);
    assert.equal(await value(), "first");
    await clock.pass(560);
    await server.stream.end("PERMISSION_DENIED", "ACCESS_DENIED");
    await assert.rejects(source.token(), { reason: "ACCESS_DENIED" });
  });

  it("takes another request id where the server refuses the one it has, once at once", async () => {
    await begin();
    await server.stream.end("UNAVAILABLE");
    await clock.pass(0.5);
    await server.stream.end("FAILED_PRECONDITION", "REQUEST_ID_LEASE_ENDED");
    assert.equal(server.streams.length, 3);
    assert.equal(server.stream.issue.requestId, "id-2");
    await server.stream.end("FAILED_PRECONDITION", "REQUEST_ID_LEASE_ENDED");
    assert.equal(server.streams.length, 3);
  });

  it("keeps a request id that somebody else is still at", async () => {
    await begin();
    await server.stream.end("UNAVAILABLE");
    await clock.pass(0.5);
    await server.stream.end("ABORTED", "REQUEST_ID_IN_PROGRESS");
    await clock.pass(1);
    assert.equal(server.streams.length, 3);
    assert.equal(server.stream.issue.requestId, "id-1");
  });

  it("drops a token whose lease was ended where only the stream's end says so", async () => {
    await begin();
    await server.stream.end("ABORTED", "LEASE_REVOKED");
    assert.deepEqual(told, [["revoked", "leases/first", "ABORTED LEASE_REVOKED"]]);
    assert.equal(server.streams.length, 2);
    assert.equal(server.stream.issue.requestId, "id-2");
  });

  it("slows down where the lease of each new token is ended", async () => {
    await begin();
    for (const pause of [0, 0.5, 1, 2]) {
      const { lease } = await source.token();
      await server.stream.send(noticeReply("LEASE_REVOKED", lease));
      await server.stream.end("ABORTED", "LEASE_REVOKED");
      if (pause > 0) assert.equal(clock.next, pause * 1000);
      await clock.pass(pause);
      await server.stream.send(tokenReply(`after ${pause}`));
    }
  });

  it("waits for a token that the server means to send late", async () => {
    const waiting = source.token();
    await settled();
    await server.stream.send(tokenReply("first", 600, "leases/first", 540));
    await waiting;
    assert.equal(clock.next, 570_000);
  });

  it("fetches another token by another request id where one was invalidated, and not for one that it no longer has", async () => {
    await begin();
    source.invalidate("another");
    await settled();
    assert.equal(server.streams.length, 1);
    source.invalidate("first");
    await settled();
    assert.equal(server.streams.length, 2);
    assert.equal(server.streams[0]?.signal.aborted, true);
    assert.equal(server.stream.issue.requestId, "id-2");
    const waiting = source.token();
    await server.stream.send(tokenReply("second"));
    assert.equal((await waiting).value, "second");
    source.invalidate("first");
    assert.equal(await value(), "second");
  });

  it("slows down where each new token is invalidated", async () => {
    await begin();
    for (const pause of [0, 0.5, 1, 2]) {
      source.invalidate(await source.token());
      await settled();
      if (pause > 0) assert.equal(clock.next, pause * 1000);
      await clock.pass(pause);
      await server.stream.send(tokenReply(`after ${pause}`));
    }
  });

  it("survives listeners that throw", async () => {
    const warned: Error[] = [];
    const note = (warning: Error): void => void warned.push(warning);
    process.on("warning", note);
    source.prependListener("revoked", () => {
      throw new Error("mine");
    });
    await begin();
    await server.stream.send(noticeReply("LEASE_REVOKED", "leases/first"));
    await server.stream.end("ABORTED", "LEASE_REVOKED");
    await server.stream.send(tokenReply("second"));
    assert.equal(await value(), "second");
    assert.equal(told.length, 1);
    process.off("warning", note);
    assert.match(String(warned[0]?.message), /revoked failed: mine/);
  });

  it("ends with close, whatever it is at, and fails clearly from then on", async () => {
    const waiting = assert.rejects(source.token(), { code: "CLIENT", reason: "SOURCE_CLOSED" });
    await settled();
    await source.close();
    await waiting;
    assert.equal(server.stream.signal.aborted, true);
    await assert.rejects(source.token(), { code: "CLIENT", reason: "SOURCE_CLOSED" });
    assert.equal(server.streams.length, 1);
  });

  it("ends with close in a pause, too, and is disposed of by `await using`", async () => {
    await begin();
    await server.stream.end("UNAVAILABLE");
    await source[Symbol.asyncDispose]();
    assert.equal(server.streams.length, 1);
  });

  it("keeps the process for those who wait, and for nothing else of its own", async () => {
    const waiting = source.token();
    await settled();
    assert.deepEqual([...clock.timers].map(({ holds }) => holds).sort(), [false, true]);
    await server.stream.send(tokenReply("first"));
    await waiting;
    assert.deepEqual(
      [...clock.timers].map(({ holds }) => holds),
      [false],
    );
  });

  it("takes what nobody foresaw for an error as well", async () => {
    const broken = new TokenSource(
      "ci",
      {},
      {
        open: () => {
          throw new TypeError("a defect");
        },
        clock,
        random: () => 1,
        uuid: () => "id",
      },
    );
    const late = assert.rejects(
      broken.token({ timeoutMs: 100 }),
      (error) => error instanceof KubevendError && error.code === "INTERNAL",
    );
    await settled();
    await clock.pass(0.1);
    await late;
    await broken.close();
  });
});
