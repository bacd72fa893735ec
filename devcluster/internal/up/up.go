// Package up runs a development cluster: a real etcd and kube-apiserver as child processes, with keys and
// files of their own in one folder, until a signal or the end of stdin stops them.
package up

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// Main is `devcluster up`. It returns the exit code of the process: 0 when the cluster was told to stop.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// Children die with the thread that started them (see childAttributes): stay on one that lasts.
	runtime.LockOSThread()
	// Once asked for, SIGPIPE no longer kills: a reader of stdout that is gone must not end the clean-up.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	o, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = run(o, stdin, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "devcluster up:", err)
		return 1
	}
	return 0
}

// run holds the folder while a cluster lives in it.
func run(o options, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	var commands <-chan string
	if o.stopOnStdinEOF {
		commands = readLines(stdin, cancel)
	}
	dir, err := openFolder(o.dir)
	if err != nil {
		return err
	}
	err = serve(ctx, o, dir, commands, events{stdout})
	return errors.Join(err, dir.close(o.keep))
}

// serve starts a cluster, obeys commands until ctx ends, and stops it. A stop during the start is no error.
func serve(ctx context.Context, o options, dir *folder, commands <-chan string, out events) error {
	began := time.Now()
	c, err := newCluster(o, dir)
	if err != nil {
		return err
	}
	defer c.stopAll()
	if err := c.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	out.ready(c, time.Since(began))
	for {
		select {
		case <-ctx.Done():
			return nil
		case gone := <-c.ended:
			if c.forget(gone) {
				out.exited(gone)
			}
		case line := <-commands:
			obey(ctx, c, line, out)
		}
	}
}

// obey carries out one line of stdin and answers it with one event.
func obey(ctx context.Context, c *cluster, line string, out events) {
	began := time.Now()
	switch line {
	case "stop " + apiserverName:
		c.stop(apiserverName)
		out.stopped(apiserverName)
	case "start " + apiserverName:
		if err := c.startAPIServer(ctx); err != nil {
			out.failed(err)
			return
		}
		out.ready(c, time.Since(began))
	default:
		out.failed(fmt.Errorf("unknown command %q, expected `stop %s` or `start %s`", line, apiserverName, apiserverName))
	}
}

// readLines sends the lines of stdin, and calls atEOF when there are no more. It keeps reading while
// commands wait, so that the end is noticed at once.
func readLines(stdin io.Reader, atEOF func()) <-chan string {
	lines := make(chan string, 64)
	go func() {
		defer atEOF()
		scanner := bufio.NewScanner(stdin)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	return lines
}
