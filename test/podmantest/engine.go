// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package podmantest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
)

// Engine has images and containers of its own, and reads the images of Install.
type Engine struct {
	folder string
	podman []string
	holder *child.Process
}

// prepare waits in a mount namespace. crun takes a hierarchy of cgroups of either
// version; in a mixture, version 2 may have no controllers, so there it is hidden.
const prepare = `if grep -qs . /sys/fs/cgroup/unified/cgroup.controllers; then umount -l /sys/fs/cgroup/unified || exit; fi
echo ready
exec sleep infinity`

// Open returns a new engine. It has to be closed.
func Open() (_ *Engine, err error) {
	images, err := find()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "podman-")
	if err != nil {
		return nil, fmt.Errorf("folder for Podman: %w", err)
	}
	e := &Engine{folder: folder, podman: store{
		root: filepath.Join(folder, "store"), run: filepath.Join(folder, "run"), images: images,
	}.arguments()}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	var said child.Output
	if e.holder, err = child.Start(exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", prepare), &said); err != nil {
		return nil, err
	}
	for end := time.Now().Add(20 * time.Second); said.String() != "ready\n"; time.Sleep(5 * time.Millisecond) {
		select {
		case <-e.holder.Exited():
			return nil, fmt.Errorf("mount namespace for Podman: %s", said.String())
		default:
		}
		if time.Now().After(end) {
			return nil, errors.New("mount namespace for Podman: not ready within 20 s")
		}
	}
	return e, nil
}

// Close removes all containers and images of the engine.
func (e *Engine) Close() error {
	var errs []error
	if e.holder != nil {
		_, err := e.Do(context.Background(), "rm", "--all", "--force", "--volumes", "--time", "0")
		errs = append(errs, err)
		e.holder.Kill()
	}
	return errors.Join(append(errs, os.RemoveAll(e.folder))...)
}

// Do runs a command of Podman and returns what it prints. An error has what it
// says besides.
func (e *Engine) Do(ctx context.Context, args ...string) (string, error) {
	var out, problems bytes.Buffer
	cmd := e.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("podman %s: %w: %s%s", strings.Join(args, " "), err, out.String(), problems.String())
	}
	return out.String(), nil
}

func (e *Engine) command(ctx context.Context, args ...string) *exec.Cmd {
	words := append([]string{"--mount", "--target", strconv.Itoa(e.holder.PID()), "podman"}, e.podman...)
	return exec.CommandContext(ctx, "nsenter", append(words, args...)...)
}

// Docker writes a program with which a shell can run commands that are written for
// Docker, into a folder of PATH. Debian's Podman does not know host-gateway yet:
// it gets the address that this machine has in Podman's network.
func (e *Engine) Docker(folder string) error {
	script := "#!/bin/bash\ncommand=$1; shift; set -- \"${@/host-gateway/10.88.0.1}\"\n[[ $command != run ]] || set -- " + strings.Join(anywhere, " ") + " \"$@\"\n" +
		"exec nsenter --mount --target " + strconv.Itoa(e.holder.PID()) + " podman " + strings.Join(e.podman, " ") + " \"$command\" \"$@\"\n"
	if err := os.WriteFile(filepath.Join(folder, "docker"), []byte(script), 0o755); err != nil {
		return fmt.Errorf("program docker: %w", err)
	}
	return nil
}

// Build builds a Dockerfile of the folder context under a name. RUN has the Go of
// this machine, and what that has downloaded and compiled before; Go gets nothing
// from the network. It returns what the build prints.
func (e *Engine) Build(ctx context.Context, name, folder, dockerfile string, args ...string) (string, error) {
	words := []string{
		"build", "--isolation", "chroot", "--pull=never", "--layers=false", "--tag", name, "--file", filepath.Join(folder, dockerfile),
		// Podman's own format has no HEALTHCHECK.
		"--format", "docker",
	}
	for variable, inside := range map[string]string{"GOROOT": "/usr/local/go:ro", "GOMODCACHE": moduleCache, "GOCACHE": buildCache} {
		dir, err := exec.CommandContext(ctx, "go", "env", variable).Output()
		if err != nil {
			return "", fmt.Errorf("go env %s: %w", variable, err)
		}
		words = append(words, "--volume", strings.TrimSpace(string(dir))+":"+inside)
	}
	return e.Do(ctx, append(append(words, args...), folder)...)
}

// Image is what an image says of itself.
type Image struct {
	Size         int64
	Architecture string
	Config       struct {
		User         string
		Env          []string
		Entrypoint   []string
		Cmd          []string
		WorkingDir   string
		ExposedPorts map[string]struct{}
		Volumes      map[string]struct{}
		Labels       map[string]string
	}
	HealthCheck struct {
		Test                           []string
		Interval, Timeout, StartPeriod time.Duration
		Retries                        int
	}
}

// Image inspects an image.
func (e *Engine) Image(ctx context.Context, name string) (Image, error) {
	out, err := e.Do(ctx, "image", "inspect", name)
	if err != nil {
		return Image{}, err
	}
	var images []Image
	if err := json.Unmarshal([]byte(out), &images); err != nil || len(images) != 1 {
		return Image{}, fmt.Errorf("podman image inspect %s: %w: %s", name, err, out)
	}
	return images[0], nil
}
