import assert from "node:assert/strict";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { WatchedFile } from "../src/files.js";
import { Client, settingsFromEnvironment, VERSION } from "../src/index.js";

import packageJson from "../package.json" with { type: "json" };

test("settings come from the environment, and an empty variable is none", () => {
  const found = settingsFromEnvironment({
    KUBEVEND_ADDRESS: "a:1",
    KUBEVEND_CA_FILE: "/ca",
    KUBEVEND_TOKEN_FILE: "",
    KUBEVEND_CLIENT_CERT_FILE: "/cert",
    KUBEVEND_CLIENT_KEY_FILE: "/key",
  });
  assert.deepEqual(found, { address: "a:1", caFile: "/ca", clientCertFile: "/cert", clientKeyFile: "/key" });
  assert.throws(() => settingsFromEnvironment({}), {
    code: "CLIENT",
    reason: "SETTING_MISSING",
    message: /KUBEVEND_ADDRESS/,
  });
});

test("settings that make no sense are refused by name", () => {
  const cases: [object, RegExp][] = [
    [{ address: "example.com" }, /KUBEVEND_ADDRESS.*host:port/],
    [{ clientCertFile: "/cert" }, /KUBEVEND_CLIENT_KEY_FILE/],
    [{ clientCertFile: "/cert", clientKeyFile: "/key", tokenFile: "/token" }, /KUBEVEND_TOKEN_FILE.*both/],
    [{ address: "example.com:80", plaintext: true }, /not a loopback/],
    [{ address: "127.0.0.1.example.com:80", plaintext: true }, /not a loopback/],
    [{ plaintext: true, caFile: "/ca" }, /only TLS/],
  ];
  for (const [settings, message] of cases) {
    assert.throws(() => new Client({ address: "127.0.0.1:1", ...settings }), { reason: "SETTING_INVALID", message });
  }
});

test("files that are missing, empty or no PEM are told with their path and what names them", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "kubevend-"));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  const [empty, garbage] = ["empty", "garbage"].map((name) => join(folder, name)) as [string, string];
  writeFileSync(empty, "");
  writeFileSync(garbage, "garbage");
  const missing = join(folder, "missing");
  const cases: [object, string, RegExp][] = [
    [{ tokenFile: missing }, "FILE_UNREADABLE", /KUBEVEND_TOKEN_FILE.*missing/],
    [{ caFile: missing }, "FILE_UNREADABLE", /KUBEVEND_CA_FILE.*missing/],
    [{ caFile: empty }, "FILE_UNREADABLE", /KUBEVEND_CA_FILE.*empty/],
    [{ clientCertFile: garbage, clientKeyFile: garbage }, "SETTING_INVALID", /KUBEVEND_CLIENT_KEY_FILE.*garbage.*PEM/],
  ];
  for (const [settings, reason, message] of cases) {
    const client = new Client({ address: "127.0.0.1:1", ...settings });
    await assert.rejects(client.whoAmI(), { code: "CLIENT", reason, message });
    const source = client.tokenSource("ci");
    await assert.rejects(source.token(), { code: "CLIENT", reason, message });
    await client.close();
  }
});

test("a file is read again when it is another one, and what was good goes on while it cannot be read", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "kubevend-"));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  const path = join(folder, "token");
  writeFileSync(path, "first");
  const file = new WatchedFile(path, "KUBEVEND_TOKEN_FILE");
  assert.equal(file.read().toString(), "first");
  assert.equal(file.read(), file.read(), "the same content is not read twice");
  rmSync(path);
  assert.equal(file.read().toString(), "first");
  writeFileSync(path, "");
  assert.equal(file.read().toString(), "first");
  writeFileSync(`${path}.next`, "other");
  renameSync(`${path}.next`, path);
  assert.equal(file.read().toString(), "other");
});

test("the version is the package's", () => {
  assert.equal(VERSION, packageJson.version);
});
