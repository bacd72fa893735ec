package up

import (
	"encoding/json"
	"io"
	"math"
	"time"
)

// events writes what happens to the cluster as JSON, one line for each event.
type events struct{ out io.Writer }

type readyEvent struct {
	Event      string         `json:"event"` // "ready"
	Server     string         `json:"server"`
	Kubeconfig string         `json:"kubeconfig"`
	CAFile     string         `json:"ca_file"`
	AuditLog   string         `json:"audit_log"`
	PIDs       map[string]int `json:"pids"`    // by component
	Seconds    float64        `json:"seconds"` // since the start was asked for
}

type componentEvent struct {
	Event  string `json:"event"` // "stopped": as it was told to; "exited": by itself
	Name   string `json:"name"`
	Status string `json:"status,omitempty"` // of the process, as in "signal: killed"
	Log    string `json:"log,omitempty"`
}

type failedEvent struct {
	Event   string `json:"event"` // "failed": a command could not be carried out
	Message string `json:"message"`
}

func (e events) ready(c *cluster, took time.Duration) {
	e.write(readyEvent{
		Event:      "ready",
		Server:     c.server(),
		Kubeconfig: c.dir.join("kubeconfig"),
		CAFile:     c.dir.join("ca.crt"),
		AuditLog:   c.options.auditLog,
		PIDs:       c.pids(),
		Seconds:    math.Round(took.Seconds()*100) / 100,
	})
}

func (e events) stopped(name string) {
	e.write(componentEvent{Event: "stopped", Name: name})
}

func (e events) exited(c *child) {
	e.write(componentEvent{Event: "exited", Name: c.name, Status: c.cmd.ProcessState.String(), Log: c.logPath})
}

func (e events) failed(err error) {
	e.write(failedEvent{Event: "failed", Message: err.Error()})
}

// write leaves a reader that has gone away to be noticed by the end of stdin.
func (e events) write(event any) {
	_ = json.NewEncoder(e.out).Encode(event)
}
