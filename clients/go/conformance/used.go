package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"kubevend.dev/kubevend"
	"kubevend.dev/kubevend/kubernetes"
)

// used is a source, the Kubernetes client that it is in, and what it has told.
type used struct {
	source *kubevend.TokenSource
	client *clientcorev1.CoreV1Client

	mutex            sync.Mutex
	revoked, refused []string
	load             *load
}

func use(client *kubevend.Client, request kubevend.Request) (*used, error) {
	u := &used{}
	u.source = kubevend.NewTokenSource(client, request,
		kubevend.OnRevoked(func(lease, _ string) { u.note(&u.revoked, lease) }),
		kubevend.OnRefused(func(refusal *kubevend.Error) { u.note(&u.refused, refusal.Reason) }),
	)
	cluster := &rest.Config{
		Host:            os.Getenv("KUBERNETES_HOST"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: os.Getenv("KUBERNETES_CA_FILE")},
		QPS:             -1, // the load is not to wait for client-go's own throttle
	}
	cluster.Wrap(func(next http.RoundTripper) http.RoundTripper { return &noting{next, u} })
	var err error
	u.client, err = clientcorev1.NewForConfig(kubernetes.Wrap(cluster, u.source))
	return u, err
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
		return answer{"ok": true}, u.list(ctx)
	case "load_start":
		u.startLoad(max(asked.Workers, 1))
		return answer{"ok": true}, nil
	case "load_stop":
		return u.stopLoad(), nil
	case "close":
		return answer{"ok": true}, u.source.Close()
	}
	return nil, fmt.Errorf("no such command: %s", asked.Do)
}

func (u *used) note(where *[]string, what string) {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	*where = append(*where, what)
}

func (u *used) list(ctx context.Context) error {
	_, err := u.client.ConfigMaps(os.Getenv("NAMESPACE")).List(ctx, metav1.ListOptions{})
	return err
}

func (u *used) atOnce(ctx context.Context, count int) (answer, error) {
	var all sync.WaitGroup
	var mutex sync.Mutex
	var failure error
	found := map[string]bool{}
	for range count {
		all.Go(func() {
			token, err := u.source.Token(ctx)
			mutex.Lock()
			defer mutex.Unlock()
			if err != nil {
				failure = err
				return
			}
			found[digest(token.Value())] = true
		})
	}
	all.Wait()
	distinct := []string{}
	for each := range found {
		distinct = append(distinct, each)
	}
	return answer{"tokens": distinct}, failure
}

// noting sees what really goes out, and notes the tokens that the API server accepts.
type noting struct {
	next http.RoundTripper
	of   *used
}

func (n *noting) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := n.next.RoundTrip(request)
	if err == nil && response.StatusCode == http.StatusOK {
		n.of.accepted(digest(strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer ")))
	}
	return response, err
}
