package up

import (
	"context"
	"fmt"
	"time"
)

// cluster is etcd, an API server and, if asked for, a controller manager, as children of this process.
type cluster struct {
	options options
	dir     *folder
	port    int
	ca      *authority
	admin   keyPair
	probe   *probe
	// children by name; a name that is missing has not been started or was stopped on purpose.
	children map[string]*child
	// ended receives each child that exited.
	ended chan *child
}

// newCluster makes the keys and files and takes the port. Nothing runs yet.
func newCluster(o options, dir *folder) (*cluster, error) {
	port, err := reservePort(o.port)
	if err != nil {
		return nil, err
	}
	ca, err := loadAuthority(dir)
	if err != nil {
		return nil, err
	}
	admin, err := ca.issueClient("admin", "system:masters")
	if err != nil {
		return nil, err
	}
	c := &cluster{
		options: o, dir: dir, port: port, ca: ca, admin: admin,
		children: map[string]*child{},
		ended:    make(chan *child),
	}
	if c.probe, err = newProbe(c.server(), ca, admin); err != nil {
		return nil, err
	}
	return c, c.writeFiles()
}

func (c *cluster) server() string {
	return fmt.Sprintf("https://127.0.0.1:%d", c.port)
}

// start brings everything up, and returns once the API server is ready.
// It fails when a child ends before that, or when ctx does.
func (c *cluster) start(ctx context.Context) error {
	if err := c.startChild(etcdName, etcdArgs()); err != nil {
		return err
	}
	if err := c.startAPIServer(ctx); err != nil {
		return err
	}
	if c.options.controllerManager {
		return c.startChild(controllerManagerName, c.controllerManagerArgs())
	}
	return nil
}

// startAPIServer starts the API server unless it runs, and waits until it is ready.
func (c *cluster) startAPIServer(ctx context.Context) error {
	if !c.runs(apiserverName) {
		if err := c.startChild(apiserverName, c.apiserverArgs()); err != nil {
			return err
		}
	}
	return c.waitReady(ctx)
}

func (c *cluster) startChild(name string, args []string) error {
	started, err := startChild(c.dir, name, args)
	if err != nil {
		return err
	}
	c.children[name] = started
	go func() {
		<-started.exited
		c.ended <- started
	}()
	return nil
}

// waitReady polls the API server until it is ready, and gives up when a child ends.
func (c *cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		notReady := c.probe.check(ctx)
		if notReady == nil {
			return nil
		}
		select {
		case gone := <-c.ended:
			if c.forget(gone) {
				return gone.failure()
			}
		case <-ctx.Done():
			return fmt.Errorf("the API server did not become ready (%w): %w", ctx.Err(), notReady)
		case <-ticker.C:
		}
	}
}

// runs looks at the child itself, since word of its end may still be waiting in c.ended.
func (c *cluster) runs(name string) bool {
	started, ok := c.children[name]
	if !ok {
		return false
	}
	select {
	case <-started.exited:
		return false
	default:
		return true
	}
}

// forget takes a child that ended off the list, and tells whether that was unexpected: whoever stops a
// child takes it off beforehand.
func (c *cluster) forget(gone *child) bool {
	if c.children[gone.name] != gone {
		return false
	}
	delete(c.children, gone.name)
	return true
}

// stop ends one child, if it runs, and waits until it is gone.
func (c *cluster) stop(name string) {
	running, ok := c.children[name]
	if !ok {
		return
	}
	delete(c.children, name)
	running.stop(grace[name])
}

// stopAll ends the children, those that depend on others first.
func (c *cluster) stopAll() {
	for _, name := range []string{apiserverName, controllerManagerName, etcdName} {
		c.stop(name)
	}
}

func (c *cluster) pids() map[string]int {
	pids := map[string]int{}
	for name, running := range c.children {
		pids[name] = running.cmd.Process.Pid
	}
	return pids
}
