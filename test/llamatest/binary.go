// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package llamatest runs the real llama-server for tests and other programs:
// it finds or installs the binary, makes a tiny model, starts and ends the
// process, and sends it requests.
package llamatest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// Cure is what to do where no llama-server is to be had.
const Cure = "install llama.cpp's llama-server and set LLAMA_SERVER=/path/to/llama-server, or on Debian as root: go run ./test/cmd/install-llama-server"

// Binary is a llama-server program.
type Binary struct {
	// Path is the program, as seen inside Root.
	Path string
	// Root is the folder to change root into, "" for none.
	Root string
	// Models is the folder for model files, as seen outside Root.
	Models string
}

const inRoot = "/usr/bin/llama-server"

// Find returns the llama-server to test with: that of the environment variable
// LLAMA_SERVER, else the one on PATH, else the one that Install installed.
func Find() (Binary, error) {
	cache, err := cacheDir()
	if err != nil {
		return Binary{}, err
	}
	b := Binary{Models: filepath.Join(cache, "models")}
	if p := os.Getenv("LLAMA_SERVER"); p != "" {
		if b.Path, err = exec.LookPath(p); err != nil {
			return Binary{}, fmt.Errorf("LLAMA_SERVER: %w: %s", err, Cure)
		}
		return b, nil
	}
	if b.Path, err = exec.LookPath("llama-server"); err == nil {
		return b, nil
	}
	root := filepath.Join(cache, "sid")
	if _, err := os.Stat(filepath.Join(root, inRoot)); err != nil {
		return Binary{}, fmt.Errorf("llama-server: neither in LLAMA_SERVER, nor on PATH, nor installed: %w: %s", err, Cure)
	}
	if os.Geteuid() != 0 {
		return Binary{}, fmt.Errorf("llama-server in %s: only root can run it: %s", root, Cure)
	}
	return Binary{Path: inRoot, Root: root, Models: filepath.Join(root, "models")}, nil
}

func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder of llama-server: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(dir, "otelcol-llamacpp"), nil
}

// Version is the first line that llama-server --version prints.
func (b Binary) Version(ctx context.Context) (string, error) {
	cmd := b.command(ctx, "--version")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w: %s", b.Path, err, strings.TrimSpace(string(out)))
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

// command runs the program itself, not a chroot in front of it, so that its
// process number and signals are its own.
func (b Binary) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.Path, args...)
	cmd.SysProcAttr = sysProcAttr(b.Root)
	if b.Root != "" {
		cmd.Path, cmd.Err, cmd.Dir = b.Path, nil, "/"
	}
	return cmd
}

// Command is the words of a command line that runs the program with a model, for
// tests of what starts a llama-server itself.
func (b Binary) Command(m tinygguf.Model) ([]string, error) {
	path, err := b.modelFile(m)
	if err != nil {
		return nil, err
	}
	words := []string{b.Path, "-m", b.seen(path)}
	if b.Root != "" {
		words = append([]string{"/usr/sbin/chroot", b.Root}, words...)
	}
	return words, nil
}

// modelFile returns the model's file, which is made once and kept.
func (b Binary) modelFile(m tinygguf.Model) (string, error) {
	if err := os.MkdirAll(b.Models, 0o755); err != nil {
		return "", fmt.Errorf("models of llama-server: %w", err)
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%+v", m)
	path := filepath.Join(b.Models, fmt.Sprintf("%s-%08x.gguf", m.Name, h.Sum32()))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, m.WriteFile(path)
}

// seen is a path as the program sees it.
func (b Binary) seen(path string) string {
	if b.Root == "" {
		return path
	}
	return strings.TrimPrefix(path, b.Root)
}

var errNoInstall = errors.New("llama-server can be installed automatically only on Debian and as root: " +
	"install llama.cpp's llama-server and set LLAMA_SERVER=/path/to/llama-server")
