package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	issueToken = "/kubevend.v1.IssueService/IssueToken"
	// roleField and tokenField are IssueTokenRequest.role and IssueTokenResponse.token.
	roleField  = 1
	tokenField = 1
)

// rawCodec sends and receives messages as the bytes that they are, so that this module needs no stubs.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(message any) ([]byte, error) {
	raw, ok := message.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no *[]byte", message)
	}
	return *raw, nil
}

func (rawCodec) Unmarshal(data []byte, message any) error {
	raw, ok := message.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no *[]byte", message)
	}
	*raw = append((*raw)[:0], data...)
	return nil
}

// dialGRPC makes clients that ask for the same role again and again, each over one connection that stays open.
func dialGRPC(opts options, secret string) ([]asker, func(), error) {
	trust, err := trustOnly(opts.caFile)
	if err != nil {
		return nil, nil, err
	}
	request := protowire.AppendString(protowire.AppendTag(nil, roleField, protowire.BytesType), opts.role)
	connections := make([]*grpc.ClientConn, 0, opts.connections)
	closeAll := func() {
		for _, connection := range connections {
			_ = connection.Close()
		}
	}
	askers := make([]asker, 0, opts.connections)
	for range opts.connections {
		connection, err := grpc.NewClient(
			"passthrough:///"+opts.address,
			grpc.WithTransportCredentials(credentials.NewTLS(trust.Clone())),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})),
		)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		connections = append(connections, connection)
		askers = append(askers, issue(connection, request, secret))
	}
	return askers, closeAll, nil
}

func issue(connection *grpc.ClientConn, request []byte, secret string) asker {
	return func(ctx context.Context) error {
		var reply []byte
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+secret)
		if err := connection.Invoke(ctx, issueToken, &request, &reply); err != nil {
			return err
		}
		if !hasToken(reply) {
			return errNoToken
		}
		return nil
	}
}

// hasToken tells whether an IssueTokenResponse has a token that is not empty.
func hasToken(reply []byte) bool {
	for len(reply) > 0 {
		number, kind, size := protowire.ConsumeTag(reply)
		if size < 0 {
			return false
		}
		if number == tokenField && kind == protowire.BytesType {
			token, _ := protowire.ConsumeBytes(reply[size:])
			return len(token) > 0
		}
		value := protowire.ConsumeFieldValue(number, kind, reply[size:])
		if value < 0 {
			return false
		}
		reply = reply[size+value:]
	}
	return false
}
