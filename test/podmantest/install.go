// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package podmantest builds images of containers and runs them for tests, with
// Podman, on images of Debian that it makes itself: it needs no registry.
package podmantest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/llamatelemetry/otelcol-llamacpp/test/debian"
)

// Cure is what to do where something is missing.
const Cure = "on Debian as root: go run ./test/cmd/install-podman"

// packages are those of the programs that run, and mmdebstrap for Install alone.
var packages = map[string]string{
	"podman": "podman", "crun": "crun", "fuse-overlayfs": "fuse-overlayfs", "mmdebstrap": "mmdebstrap",
}

// Images that Install makes, under the names by which a Dockerfile asks for
// Docker's own. The one for Go has no Go: Build mounts that of this machine.
const (
	Debian = "docker.io/library/debian:bookworm-slim"
	golang = "docker.io/library/golang:1.26-bookworm"
)

// Folders that Build mounts into the image for Go.
const (
	moduleCache = "/host/mod"
	buildCache  = "/host/go-build"
)

// bases are the images, with what mmdebstrap has to be told of each.
var bases = []struct {
	name      string
	bootstrap []string
	changes   []string
}{
	{
		name: Debian,
		// What Debian's own slim image leaves out.
		bootstrap: []string{
			"--variant=apt",
			"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
			"--dpkgopt=path-exclude=/usr/share/info/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		},
		changes: []string{"CMD [\"bash\"]"},
	},
	{
		name:      golang,
		bootstrap: []string{"--variant=apt", "--include=ca-certificates,gcc,git,libc6-dev,make"},
		changes: []string{
			"ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"ENV GOTOOLCHAIN=local", "ENV GOPROXY=off", "ENV GOSUMDB=off", "ENV GOMODCACHE=" + moduleCache, "ENV GOCACHE=" + buildCache,
		},
	},
}

// find returns the folder of the images that Install has made.
func find() (string, error) {
	for program := range packages {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("find Podman: %w: %s", err, Cure)
		}
	}
	folder, err := place()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(folder); err != nil {
		return "", fmt.Errorf("find images of Debian: %w: %s", err, Cure)
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("run Podman: only root can, without a setup of user namespaces: %s", Cure)
	}
	return folder, nil
}

func place() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder of images: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(cache, "otelcol-llamacpp", "images-bookworm"), nil
}

// Install installs Podman and makes the images, into a folder below the user's
// cache folder. It needs Debian, root and the network, and does nothing where it
// was done before. The first time takes a minute or two.
func Install(ctx context.Context, log io.Writer) (err error) {
	if !debian.CanInstall() {
		_, err := find()
		return err
	}
	var missing []string
	for program, name := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, name)
		}
	}
	for _, name := range missing {
		if err := debian.Install(ctx, log, name); err != nil {
			return fmt.Errorf("install Podman: %w: %s", err, Cure)
		}
	}
	folder, err := place()
	if err != nil {
		return err
	}
	if _, err := os.Stat(folder); err == nil {
		fmt.Fprintf(log, "Podman is installed, and images of Debian are in %s\n", folder)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return fmt.Errorf("install images of Debian: %w", err)
	}
	// The folder gets its name only when it is complete.
	part, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+".part-")
	if err != nil {
		return fmt.Errorf("install images of Debian: %w", err)
	}
	run, err := os.MkdirTemp("", "podman-")
	if err != nil {
		return fmt.Errorf("install images of Debian: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(run), os.RemoveAll(part)) }()
	podman := store{root: part, run: run}.arguments()
	for _, base := range bases {
		archive := filepath.Join(run, "base.tar")
		bootstrap := append([]string{"mmdebstrap"}, base.bootstrap...)
		// A mirror that is a frozen snapshot has an index that has run out.
		bootstrap = append(bootstrap, `--aptopt=Acquire::Check-Valid-Until "false"`, "bookworm", archive)
		load := append(append([]string{"podman"}, podman...), "import")
		for _, change := range base.changes {
			load = append(load, "--change", change)
		}
		load = append(load, archive, base.name)
		for _, args := range [][]string{bootstrap, load} {
			if err := debian.Run(ctx, log, args...); err != nil {
				return fmt.Errorf("install images of Debian: %w", err)
			}
		}
	}
	if err := os.Rename(part, folder); err != nil {
		if _, found := os.Stat(folder); found == nil {
			return nil // somebody else was faster
		}
		return fmt.Errorf("install images of Debian: %w", err)
	}
	return nil
}

// store is where Podman keeps images and containers.
type store struct {
	// root lasts, run need not.
	root, run string
	// images has images of another store, which are only read; "" for none.
	images string
}

// arguments are those of every command. The kernel's own overlay is not on every
// machine.
func (s store) arguments() []string {
	args := []string{
		"--root", s.root, "--runroot", s.run, "--tmpdir", filepath.Join(s.run, "tmp"), "--runtime", "crun", "--cgroup-manager", "cgroupfs",
		"--storage-driver", "overlay", "--storage-opt", "overlay.mount_program=/usr/bin/fuse-overlayfs",
	}
	if s.images != "" {
		args = append(args, "--storage-opt", "overlay.imagestore="+s.images)
	}
	return args
}
