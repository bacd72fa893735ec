package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// What a step of a chain may have in its path and body: a name that no other chain has, and the UID of what the first
// step made.
const (
	namePlace = "{NAME}"
	uidPlace  = "{UID}"
)

var errNoUID = errors.New("the server answered without a UID")

// step is one POST of a chain: the last one asks for a token, those before it make what that needs.
type step struct {
	Path string `json:"path"`
	Body string `json:"body"`
}

// chain asks for a token by several POSTs, one after the other, as often as it is asked.
func chain(opts options) (func(poster) asker, error) {
	var steps []step
	if err := json.Unmarshal([]byte(opts.body), &steps); err != nil {
		return nil, fmt.Errorf("-body is no list of steps: %w", err)
	}
	if len(steps) == 0 {
		return nil, errors.New("-body is a list of no steps")
	}
	// Whatever other runs have left behind has another one.
	prefix := "bench-" + strings.ToLower(rand.Text()[:10])
	var count atomic.Int64
	return func(send poster) asker {
		return func(ctx context.Context) error {
			return walk(ctx, send, steps, fmt.Sprintf("%s-%d", prefix, count.Add(1)))
		}
	}, nil
}

func walk(ctx context.Context, send poster, steps []step, name string) error {
	last := len(steps) - 1
	owner := ""
	for i, made := range steps[:last] {
		fill := strings.NewReplacer(namePlace, name, uidPlace, owner)
		uid, err := send(ctx, fill.Replace(made.Path), fill.Replace(made.Body), madeUID)
		if err != nil {
			return err
		}
		if uid == "" {
			return errNoUID
		}
		if i == 0 {
			owner = uid
		}
	}
	fill := strings.NewReplacer(namePlace, name, uidPlace, owner)
	token, err := send(ctx, fill.Replace(steps[last].Path), fill.Replace(steps[last].Body), tokenRequestToken)
	if err == nil && token == "" {
		err = errNoToken
	}
	return err
}

// madeUID reads the UID of an object that was made.
func madeUID(answer []byte) (string, error) {
	var made struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	err := json.Unmarshal(answer, &made)
	return made.Metadata.UID, err
}
