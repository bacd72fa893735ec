import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  type ServiceDefinition,
  status,
} from "@grpc/grpc-js";

import { durationOf } from "../../src/durations.js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.js";
import {
  type IssueTokenRequest,
  IssueTokenRequestSchema,
  type IssueTokenResponse,
  IssueTokenResponseSchema,
  type StreamTokensRequest,
  StreamTokensRequestSchema,
  type StreamTokensResponse,
  StreamTokensResponseSchema,
} from "../../src/v1.js";

const SERVICE: ServiceDefinition = {
  issueToken: {
    path: "/kubevend.v1.IssueService/IssueToken",
    requestStream: false,
    responseStream: false,
    requestSerialize: (message: IssueTokenRequest) => Buffer.from(toBinary(IssueTokenRequestSchema, message)),
    requestDeserialize: (bytes) => fromBinary(IssueTokenRequestSchema, bytes),
    responseSerialize: (message: IssueTokenResponse) => Buffer.from(toBinary(IssueTokenResponseSchema, message)),
    responseDeserialize: (bytes) => fromBinary(IssueTokenResponseSchema, bytes),
  },
  streamTokens: {
    path: "/kubevend.v1.IssueService/StreamTokens",
    requestStream: false,
    responseStream: true,
    requestSerialize: (message: StreamTokensRequest) => Buffer.from(toBinary(StreamTokensRequestSchema, message)),
    requestDeserialize: (bytes) => fromBinary(StreamTokensRequestSchema, bytes),
    responseSerialize: (message: StreamTokensResponse) => Buffer.from(toBinary(StreamTokensResponseSchema, message)),
    responseDeserialize: (bytes) => fromBinary(StreamTokensResponseSchema, bytes),
  },
};

type Issue = (
  call: ServerUnaryCall<IssueTokenRequest, IssueTokenResponse>,
  answer: sendUnaryData<IssueTokenResponse>,
) => void;
type Stream = (call: ServerWritableStream<StreamTokensRequest, StreamTokensResponse>) => void;

/** A gRPC server on loopback, in plain text, with handlers of a test's own. */
export async function serve(issueToken: Issue, streamTokens: Stream): Promise<{ address: string; server: Server }> {
  const server = new Server();
  server.addService(SERVICE, { issueToken, streamTokens });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) => {
      if (error) reject(error);
      else resolve(bound);
    });
  });
  return { address: `127.0.0.1:${port}`, server };
}

/** A refusal with all details that kubevend sends. */
export function refusal(code: status, reason: string): { code: status; details: string; metadata: Metadata } {
  const details = [
    anyPack(
      ErrorInfoSchema,
      create(ErrorInfoSchema, { reason, domain: "kubevend.dev", metadata: { role: "roles/ci" } }),
    ),
    anyPack(RequestInfoSchema, create(RequestInfoSchema, { requestId: "call-1" })),
    anyPack(
      BadRequestSchema,
      create(BadRequestSchema, { fieldViolations: [{ field: "ttl", description: "must be" }] }),
    ),
    anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: durationOf(1.5) })),
  ];
  const metadata = new Metadata();
  const bytes = toBinary(StatusSchema, create(StatusSchema, { code, message: "no", details }));
  metadata.set("grpc-status-details-bin", Buffer.from(bytes));
  return { code, details: "no", metadata };
}
