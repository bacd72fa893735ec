package up

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// reservePort binds a port of 127.0.0.1 (0: a free one) without listening on it, and holds it until this
// process ends. The API server then listens there with SO_REUSEPORT (--permit-port-sharing), so that nobody
// else gets the port between the choice and the start, nor while the API server is stopped.
func reservePort(port int) (int, error) {
	if port != 0 && isListening(port) {
		return 0, fmt.Errorf("something listens on port %d already; choose another --port, or 0 for a free one", port)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	unix.CloseOnExec(fd)
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return 0, err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, fmt.Errorf("cannot bind 127.0.0.1:%d: %w", port, err)
	}
	return boundPort(fd)
}

func boundPort(fd int) (int, error) {
	address, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	return address.(*unix.SockaddrInet4).Port, nil
}

// isListening finds what a bind with SO_REUSEPORT would not: another devcluster of the same user on the port.
func isListening(port int) bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
