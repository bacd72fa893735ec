//go:build unix && !linux

package up

import (
	"os"
	"syscall"
)

func selfExecutable() (string, error) {
	return os.Executable()
}

// childAttributes keeps the terminal's Ctrl-C from a child. Only Linux can also let it die with its parent.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
