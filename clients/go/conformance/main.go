// Command conformance does with the library what it is told, one JSON object a line: see tests/conformance/README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"kubevend.dev/kubevend"
)

type command struct {
	ID                 int      `json:"id"`
	Do                 string   `json:"do"`
	Source             string   `json:"source"`
	Role               string   `json:"role"`
	Namespace          string   `json:"namespace"`
	ServiceAccountName string   `json:"service_account_name"`
	TTLSeconds         int      `json:"ttl_seconds"`
	MinTTLSeconds      int      `json:"min_ttl_seconds"`
	Audiences          []string `json:"audiences"`
	RequestID          string   `json:"request_id"`
	ValidateOnly       bool     `json:"validate_only"`
	TimeoutMS          int      `json:"timeout_ms"`
	Count              int      `json:"count"`
	Workers            int      `json:"workers"`
}

func (c command) request() kubevend.Request {
	return kubevend.Request{
		Role:               c.Role,
		Namespace:          c.Namespace,
		ServiceAccountName: c.ServiceAccountName,
		TTL:                time.Duration(c.TTLSeconds) * time.Second,
		MinTTL:             time.Duration(c.MinTTLSeconds) * time.Second,
		Audiences:          c.Audiences,
		RequestID:          c.RequestID,
		ValidateOnly:       c.ValidateOnly,
	}
}

type driver struct {
	client       *kubevend.Client
	notConnected error

	mutex   sync.Mutex
	sources map[string]*used
}

func main() {
	d := &driver{sources: map[string]*used{}}
	d.client, d.notConnected = kubevend.Connect(kubevend.FromEnvironment())
	var running sync.WaitGroup
	answers := json.NewEncoder(os.Stdout)
	var writing sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var asked command
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		running.Go(func() {
			told := d.answer(asked)
			writing.Lock()
			defer writing.Unlock()
			_ = answers.Encode(told)
		})
	}
	d.close()
	running.Wait()
}

func (d *driver) answer(asked command) answer {
	told, err := d.perform(asked)
	if err != nil {
		told = answer{"error": described(err)}
	}
	told["id"] = asked.ID
	return told
}

func (d *driver) perform(asked command) (answer, error) {
	if d.notConnected != nil {
		return nil, d.notConnected
	}
	timeout := 10 * time.Second
	if asked.TimeoutMS > 0 {
		timeout = time.Duration(asked.TimeoutMS) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	switch asked.Do {
	case "issue":
		return told(d.client.Issue(ctx, asked.request()))
	case "whoami":
		found, err := d.client.WhoAmI(ctx)
		return answer{"name": found.GetName()}, err
	case "open":
		return answer{"ok": true}, d.open(asked)
	}
	d.mutex.Lock()
	of := d.sources[asked.Source]
	d.mutex.Unlock()
	if of == nil {
		return nil, fmt.Errorf("no such source: %s", asked.Source)
	}
	return of.perform(ctx, asked)
}

func (d *driver) open(asked command) error {
	opened, err := use(d.client, asked.request())
	if err != nil {
		return err
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.sources[asked.Source] = opened
	return nil
}

func (d *driver) close() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, each := range d.sources {
		each.stopLoad()
		_ = each.source.Close()
	}
	if d.client != nil {
		_ = d.client.Close()
	}
}
