package up

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// folder is the working folder of one cluster, held by one supervisor at a time.
type folder struct {
	path string
	// created tells that this process made the folder; only then may it remove it.
	created bool
	lock    *os.File
}

// openFolder makes the folder (mode 0700) or takes over one that an earlier run kept, and locks it.
func openFolder(path string) (*folder, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	err := os.Mkdir(path, 0o700)
	created := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := requirePrivate(path); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(path, "lock"))
	if err != nil {
		return nil, fmt.Errorf("%s is in use by another devcluster; stop that one or choose another --dir: %w", path, err)
	}
	return &folder{path: path, created: created, lock: lock}, nil
}

// requirePrivate refuses a folder that other users may read: it is to hold the cluster's private keys.
func requirePrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is open to other users; `chmod 700` it or choose a folder that does not exist yet", path)
	}
	return nil
}

// lockFile takes an exclusive lock that the kernel gives back when this process ends, however it ends.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// join returns the path of a file in the folder.
func (f *folder) join(name string) string {
	return filepath.Join(f.path, name)
}

// close gives the folder up. It removes it unless keep is set or somebody else had made it.
func (f *folder) close(keep bool) error {
	var err error
	if f.created && !keep {
		err = os.RemoveAll(f.path)
	}
	return errors.Join(err, f.lock.Close())
}
