import { clientError } from "./errors.js";

/** How kubevend is reached, and what shows it who calls. */
export interface Settings {
  /** `host:port`. */
  address: string;

  /** PEM: the authorities that vouch for the server. Default: those of Node. Read again when it changes. */
  caFile?: string | undefined;

  /** A bearer token, as of a ServiceAccount. Read again when it changes. Not together with a client certificate. */
  tokenFile?: string | undefined;

  /** PEM: the certificate that the caller shows, with those of its intermediates. Read again when it changes. */
  clientCertFile?: string | undefined;

  /** PEM: the key of that certificate. */
  clientKeyFile?: string | undefined;

  /** Plain text in place of TLS. Only to a loopback address. Default: no. */
  plaintext?: boolean | undefined;
}

/** The environment variable of each setting. */
const VARIABLES = {
  address: "KUBEVEND_ADDRESS",
  caFile: "KUBEVEND_CA_FILE",
  tokenFile: "KUBEVEND_TOKEN_FILE",
  clientCertFile: "KUBEVEND_CLIENT_CERT_FILE",
  clientKeyFile: "KUBEVEND_CLIENT_KEY_FILE",
} as const;

/** What messages call a setting: its name and its environment variable. */
export function named(setting: keyof typeof VARIABLES): string {
  return `${setting} (${VARIABLES[setting]})`;
}

/**
 * The settings in the environment: KUBEVEND_ADDRESS, KUBEVEND_CA_FILE, KUBEVEND_TOKEN_FILE, KUBEVEND_CLIENT_CERT_FILE and
 * KUBEVEND_CLIENT_KEY_FILE. An empty variable counts as none.
 *
 * @param environment - by default the process's own
 * @throws KubevendError SETTING_MISSING: KUBEVEND_ADDRESS is not set
 */
export function settingsFromEnvironment(environment: Readonly<NodeJS.ProcessEnv> = process.env): Settings {
  const found = Object.entries(VARIABLES).map(([setting, variable]) => [setting, environment[variable] ?? ""] as const);
  const settings = Object.fromEntries(found.filter(([, value]) => value !== "")) as Partial<Settings>;
  const { address } = settings;
  if (address === undefined) {
    throw clientError(
      "SETTING_MISSING",
      "KUBEVEND_ADDRESS is not set. Set it to kubevend's host:port, as 127.0.0.1:7443.",
    );
  }
  return { ...settings, address };
}

/**
 * Refuse settings that make no sense together.
 *
 * @throws KubevendError SETTING_INVALID
 */
export function checkSettings(settings: Settings): void {
  const { address, tokenFile, clientCertFile, clientKeyFile } = settings;
  if (!/^[^\s/]+:\d+$/.test(address)) {
    refuse(
      `${named("address")} is ${JSON.stringify(address)}, which is not host:port. Write it as kubevend.example.com:7443.`,
    );
  }
  if ((clientCertFile === undefined) !== (clientKeyFile === undefined)) {
    refuse(`Of ${named("clientCertFile")} and ${named("clientKeyFile")} only one is set. Set both, or neither.`);
  }
  if (tokenFile !== undefined && clientCertFile !== undefined) {
    refuse(
      `${named("tokenFile")} and ${named("clientCertFile")} are both set. Keep the one by which kubevend is to know you.`,
    );
  }
  if (settings.plaintext === true) checkPlaintext(settings);
}

function checkPlaintext({ address, caFile, clientCertFile }: Settings): void {
  if (!/^(localhost|127(\.\d+){3}|\[::1\]):\d+$/.test(address)) {
    refuse(
      `plaintext is set, but ${address} is not a loopback address. Leave it out: tokens must not cross a network unencrypted.`,
    );
  }
  if (caFile !== undefined || clientCertFile !== undefined) {
    refuse("plaintext is set together with certificates, which only TLS has. Leave one of them out.");
  }
}

function refuse(message: string): never {
  throw clientError("SETTING_INVALID", message);
}
