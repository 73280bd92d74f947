// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamatest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/llamatelemetry/otelcol-llamacpp/test/debian"
)

// Install puts Debian sid's llama-server into a folder of its own below the
// user's cache folder, from which it runs with a changed root. It needs Debian,
// root, the network and some 500 MB, and does nothing where it was done before.
func Install(ctx context.Context, log io.Writer) (err error) {
	if !debian.CanInstall() {
		return errNoInstall
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return fmt.Errorf("install llama-server: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, "install.lock"), syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()

	root := filepath.Join(cache, "sid")
	if _, err := os.Stat(filepath.Join(root, inRoot)); err == nil {
		fmt.Fprintf(log, "llama-server is installed in %s\n", root)
		return nil
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		if err := debian.Install(ctx, log, "debootstrap"); err != nil {
			return fmt.Errorf("install llama-server: %w: %s", err, Cure)
		}
	}
	// The folder gets its name only when it is complete.
	part, err := os.MkdirTemp(cache, "sid.part-")
	if err != nil {
		return fmt.Errorf("install llama-server: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeRoot(part))
		}
	}()
	if err := os.Chmod(part, 0o755); err != nil {
		return fmt.Errorf("install llama-server: %w", err)
	}
	for _, args := range [][]string{
		{"debootstrap", "--variant=minbase", "sid", part},
		// A mirror that is a frozen snapshot has an index that has run out.
		{"chroot", part, "apt-get", "-o", "Acquire::Check-Valid-Until=false", "update"},
		{"chroot", part, "apt-get", "install", "-y", "--no-install-recommends", "llama.cpp-tools"},
		{"chroot", part, inRoot, "--version"},
	} {
		if err := debian.Run(ctx, log, args...); err != nil {
			return fmt.Errorf("install llama-server: %w: %s", err, Cure)
		}
	}
	if err := removeRoot(root); err != nil { // a bare system from elsewhere
		return err
	}
	if err := os.Rename(part, root); err != nil {
		return fmt.Errorf("install llama-server: %w", err)
	}
	return nil
}

// removeRoot removes a root folder, but never what is mounted in it.
func removeRoot(root string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("remove %s: %w", root, err)
	}
	for l := range strings.Lines(string(mounts)) {
		if f := strings.Fields(l); len(f) > 1 && strings.HasPrefix(f[1], root+"/") {
			if err := syscall.Unmount(f[1], 0); err != nil {
				return fmt.Errorf("unmount %s: %w: unmount it by hand", f[1], err)
			}
		}
	}
	if err := os.RemoveAll(root); err != nil {
		return fmt.Errorf("remove %s: %w", root, err)
	}
	return nil
}

// lock takes a lock file's lock; how is LOCK_EX or LOCK_SH.
func lock(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err == nil {
			return func() { f.Close() }, nil // closing unlocks
		}
		if !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
	}
}

// mountProc makes /proc visible in root, which router mode needs to start its
// children. Several routers, also of other programs, share the mount; the last
// to leave removes it if one of them made it.
func mountProc(root string) (unmount func() error, err error) {
	proc := filepath.Join(root, "proc")
	path := root + ".proc.lock"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", proc, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	flock := func(how int) error {
		for {
			if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
				return err
			}
		}
	}
	if err := flock(syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if _, err := os.Stat(filepath.Join(proc, "self")); err != nil {
		if err := syscall.Mount("proc", proc, "proc", 0, ""); err != nil {
			return nil, fmt.Errorf("mount %s: %w: router mode needs /proc there", proc, err)
		}
		if _, err := f.WriteAt([]byte("mounted\n"), 0); err != nil {
			return nil, fmt.Errorf("mount %s: %w", proc, err)
		}
	}
	if err := flock(syscall.LOCK_SH); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() error {
		defer f.Close()
		if flock(syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			return nil // others still use it
		}
		if i, err := f.Stat(); err != nil || i.Size() == 0 {
			return err
		}
		if err := syscall.Unmount(proc, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", proc, err)
		}
		return f.Truncate(0)
	}, nil
}

// sysProcAttr makes the server end when this program does, however it ends, and
// gives it a process group for its own children.
func sysProcAttr(root string) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Chroot: root, Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup ends the server and the children that a router has.
func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }
