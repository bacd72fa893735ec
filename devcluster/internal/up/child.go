package up

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// tailLines is how much of a child's log is shown when it fails.
const tailLines = 25

// child is one running command of this same binary, with its output in a log file.
type child struct {
	name    string
	logPath string
	cmd     *exec.Cmd
	// exited is closed once the process has ended and been waited for; cmd.ProcessState is valid from then on.
	exited chan struct{}
}

// startChild runs `devcluster NAME ARGS...` in the folder and appends its output to NAME.log there.
func startChild(dir *folder, name string, args []string) (*child, error) {
	executable, err := selfExecutable()
	if err != nil {
		return nil, err
	}
	logPath := dir.join(name + ".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(executable, append([]string{name}, args...)...)
	cmd.Args[0] = "devcluster"
	cmd.Dir = dir.path
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	c := &child{name: name, logPath: logPath, cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the outcome is read from cmd.ProcessState
		close(c.exited)
	}()
	return c, nil
}

// stop asks the process to end, and kills it when it has not within the time given.
func (c *child) stop(grace time.Duration) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-c.exited:
	case <-time.After(grace):
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
}

// failure describes an unexpected end: how it ended, the last lines of the log, and what to do.
func (c *child) failure() error {
	return fmt.Errorf("%s ended unexpectedly (%s); the last lines of its log:\n%s\n"+
		"If they do not tell why, run again with --keep and read %s.",
		c.name, c.cmd.ProcessState, c.logTail(), c.logPath)
}

func (c *child) logTail() string {
	content, err := os.ReadFile(c.logPath)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
