package up

import "syscall"

// selfExecutable is this very program, even when the file it was started from has been replaced since.
func selfExecutable() (string, error) {
	return "/proc/self/exe", nil
}

// childAttributes lets a child die with this process, and keeps the terminal's Ctrl-C from it. The kernel
// sends the signal when the starting thread ends, so that thread has to last (see Main).
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
