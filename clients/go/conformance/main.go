// Command conformance does with the library what it is told, one JSON object a line: see tests/conformance/README.md.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"kubevend.dev/kubevend"
	"kubevend.dev/kubevend/kubernetes"
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

type answer map[string]any

// used is a source, the Kubernetes client that it is in, and what it has told.
type used struct {
	source *kubevend.TokenSource
	client *clientcorev1.CoreV1Client

	mutex            sync.Mutex
	revoked, refused []string
	load             *load
}

// load makes requests one after another, until it is to stop.
type load struct {
	stop    chan struct{}
	workers sync.WaitGroup

	mutex            sync.Mutex
	requests, failed int
	firstFailure     string
	tokens           map[string]bool
}

type driver struct {
	client *kubevend.Client

	mutex   sync.Mutex
	sources map[string]*used
}

func main() {
	client, err := kubevend.Connect(kubevend.FromEnvironment())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d := &driver{client: client, sources: map[string]*used{}}
	var running sync.WaitGroup
	var output sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var asked command
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		running.Add(1)
		go func() {
			defer running.Done()
			told, err := d.perform(asked)
			if err != nil {
				told = answer{"error": described(err)}
			}
			told["id"] = asked.ID
			output.Lock()
			defer output.Unlock()
			_ = json.NewEncoder(os.Stdout).Encode(told)
		}()
	}
	d.close()
	running.Wait()
}

func (d *driver) close() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for _, each := range d.sources {
		each.source.Close()
	}
	_ = d.client.Close()
}

func (d *driver) perform(asked command) (answer, error) {
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
		return d.open(asked)
	}
	d.mutex.Lock()
	of := d.sources[asked.Source]
	d.mutex.Unlock()
	return of.perform(ctx, asked)
}

func (d *driver) open(asked command) (answer, error) {
	opened := &used{}
	opened.source = kubevend.NewTokenSource(d.client, asked.request(), kubevend.Listener{
		Revoked: func(lease, _ string) { opened.note(&opened.revoked, lease) },
		Refused: func(refusal *kubevend.Error) { opened.note(&opened.refused, refusal.Reason) },
	})
	config := kubernetes.RESTConfig(opened.source, os.Getenv("KUBERNETES_HOST"), os.Getenv("KUBERNETES_CA_FILE"))
	config.QPS = -1 // the load is not to wait for client-go's own throttle
	client, err := clientcorev1.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	opened.client = client
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.sources[asked.Source] = opened
	return answer{"ok": true}, nil
}

func (u *used) note(where *[]string, what string) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	*where = append(*where, what)
}

func (u *used) perform(ctx context.Context, asked command) (answer, error) {
	switch asked.Do {
	case "token":
		return told(u.source.Token(ctx))
	case "tokens":
		return u.atOnce(ctx, asked.Count)
	case "invalidate":
		token, err := u.source.Token(ctx)
		u.source.Invalidate(token)
		return answer{"ok": true}, err
	case "told":
		u.mutex.Lock()
		defer u.mutex.Unlock()
		return answer{"revoked": append([]string{}, u.revoked...), "refused": append([]string{}, u.refused...)}, nil
	case "use":
		return answer{"ok": true}, u.use(ctx)
	case "load_start":
		u.startLoad(max(asked.Workers, 1))
		return answer{"ok": true}, nil
	case "load_stop":
		return u.stopLoad(), nil
	case "close":
		u.source.Close()
		return answer{"ok": true}, nil
	}
	return nil, fmt.Errorf("no command: %s", asked.Do)
}

func (u *used) use(ctx context.Context) error {
	_, err := u.client.ConfigMaps(os.Getenv("NAMESPACE")).List(ctx, metav1.ListOptions{})
	return err
}

func (u *used) atOnce(ctx context.Context, count int) (answer, error) {
	var all sync.WaitGroup
	var mutex sync.Mutex
	found := map[string]bool{}
	var failure error
	for range count {
		all.Add(1)
		go func() {
			defer all.Done()
			token, err := u.source.Token(ctx)
			mutex.Lock()
			defer mutex.Unlock()
			if err != nil {
				failure = err
				return
			}
			found[digest(token)] = true
		}()
	}
	all.Wait()
	distinct := []string{}
	for each := range found {
		distinct = append(distinct, each)
	}
	return answer{"tokens": distinct}, failure
}

func (u *used) startLoad(workers int) {
	u.load = &load{stop: make(chan struct{}), tokens: map[string]bool{}}
	for range workers {
		u.load.workers.Add(1)
		go u.work(u.load)
	}
}

func (u *used) work(of *load) {
	defer of.workers.Done()
	for {
		select {
		case <-of.stop:
			return
		default:
		}
		token, err := u.source.Token(context.Background())
		if err == nil {
			err = u.use(context.Background())
		}
		of.mutex.Lock()
		of.requests++
		if err != nil {
			of.failed++
			if of.firstFailure == "" {
				of.firstFailure = err.Error()
			}
		} else {
			of.tokens[token.JTI] = true
		}
		of.mutex.Unlock()
	}
}

func (u *used) stopLoad() answer {
	of := u.load
	close(of.stop)
	of.workers.Wait()
	return answer{
		"requests": of.requests, "failed": of.failed, "first_failure": of.firstFailure, "tokens": len(of.tokens),
	}
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

func told(token *kubevend.Token, err error) (answer, error) {
	if err != nil {
		return nil, err
	}
	warnings := []string{}
	for _, warning := range token.Warnings {
		warnings = append(warnings, warning.GetReason())
	}
	return answer{
		"token": digest(token), "lease": token.Lease, "jti": token.JTI, "replayed": token.Replayed,
		"granted_ttl_seconds": int(token.GrantedTTL.Seconds()), "warnings": warnings,
	}, nil
}

func described(err error) answer {
	var refused *kubevend.Error
	if errors.As(err, &refused) {
		code := statusName(refused)
		violations := append([]string{}, refused.Violations...)
		return answer{
			"code": code, "reason": refused.Reason, "message": refused.Message, "metadata": refused.Metadata,
			"violations": violations,
		}
	}
	if answered := apierrors.APIStatus(nil); errors.As(err, &answered) {
		return answer{"code": fmt.Sprintf("HTTP_%d", answered.Status().Code), "reason": "", "message": err.Error()}
	}
	return answer{"code": "CLIENT", "reason": fmt.Sprintf("%T", err), "message": err.Error()}
}

func statusName(refused *kubevend.Error) string {
	if refused.Reason == "SOURCE_CLOSED" || refused.Reason == "SETTINGS_INVALID" {
		return "CLIENT"
	}
	names := []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	return names[refused.Code]
}

func digest(token *kubevend.Token) string {
	sum := sha256.Sum256([]byte(token.Value()))
	return hex.EncodeToString(sum[:8])
}
