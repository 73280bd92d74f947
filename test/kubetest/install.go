// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package kubetest runs a real Kubernetes API server for tests, without a
// cluster: it builds the versions that tools/kubernetes pins, starts and ends the
// processes, and asks through kubectl. Pods are objects there: what is behind
// their addresses is the test's.
package kubetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Cure is what to do where there is no API server.
const Cure = "go run ./test/cmd/install-kubernetes"

// programs are what Install builds, by the name of the file.
var programs = []string{"etcd", "kube-apiserver", "kubectl"}

// packages are where their sources are.
var packages = map[string]string{
	"etcd":           "go.etcd.io/etcd/server/v3",
	"kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
	"kubectl":        "k8s.io/kubernetes/cmd/kubectl",
}

// definitions are the custom resources that manifests use: the module that has
// each, and the file there.
var definitions = []struct{ module, file string }{
	{"github.com/kedacore/keda/v2", "config/crd/bases/keda.sh_scaledobjects.yaml"},
	{"github.com/kedacore/keda/v2", "config/crd/bases/keda.sh_triggerauthentications.yaml"},
	{"github.com/prometheus-operator/prometheus-operator", "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"},
	{"github.com/prometheus-operator/prometheus-operator", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"},
}

// Find returns the folder that Install has put the programs into. Its folder crds
// has the definitions of custom resources.
func Find(ctx context.Context) (string, error) {
	_, folder, err := places(ctx)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(folder); err != nil {
		return "", fmt.Errorf("find Kubernetes: %w: %s", err, Cure)
	}
	return folder, nil
}

// Install builds the programs into a folder below the user's cache folder, and
// does nothing where that has been done before. The first build takes some
// minutes.
func Install(ctx context.Context, log io.Writer) (err error) {
	tools, folder, err := places(ctx)
	if err != nil {
		return err
	}
	if _, err := Find(ctx); err == nil {
		return nil
	}
	fmt.Fprintln(log, "kube-apiserver, etcd and kubectl are being built, which takes minutes")
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return fmt.Errorf("install Kubernetes: %w", err)
	}
	// The folder gets its name only when it is complete.
	part, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+".part-")
	if err != nil {
		return fmt.Errorf("install Kubernetes: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	if err := os.Mkdir(filepath.Join(part, "crds"), 0o755); err != nil {
		return fmt.Errorf("install Kubernetes: %w", err)
	}
	for _, d := range definitions {
		if err := copyDefinition(ctx, filepath.Join(tools, "kubernetes-crds"), d.module, d.file, filepath.Join(part, "crds")); err != nil {
			return fmt.Errorf("install Kubernetes: %w", err)
		}
	}
	for _, program := range programs {
		build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(part, program), packages[program])
		build.Dir, build.Stdout, build.Stderr = filepath.Join(tools, "kubernetes"), log, log
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := build.Run(); err != nil {
			return fmt.Errorf("install Kubernetes: go build %s in %s: %w", packages[program], build.Dir, err)
		}
	}
	if err := os.Rename(part, folder); err != nil {
		if _, found := Find(ctx); found == nil {
			return nil // somebody else was faster
		}
		return fmt.Errorf("install Kubernetes: %w", err)
	}
	return nil
}

func copyDefinition(ctx context.Context, from, module, file, to string) error {
	// Downloads the module, whose checksum is in go.sum, and says where it is.
	download := exec.CommandContext(ctx, "go", "mod", "download", module)
	download.Dir = from
	if out, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("go mod download %s in %s: %w\n%s", module, from, err, out)
	}
	dir, err := list(ctx, from, "{{.Dir}}", module)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, filepath.Base(file)), text, 0o600)
}

// places returns the folder of the modules that pin the versions, and the one for
// the programs of those versions.
func places(ctx context.Context) (tools, folder string, err error) {
	_, self, _, _ := runtime.Caller(0)
	tools = filepath.Join(filepath.Dir(self), "..", "..", "tools")
	name := "kubernetes"
	for _, pinned := range []struct{ folder, module string }{
		{"kubernetes", "k8s.io/kubernetes"},
		{"kubernetes", "go.etcd.io/etcd/server/v3"},
		{"kubernetes-crds", "github.com/kedacore/keda/v2"},
		{"kubernetes-crds", "github.com/prometheus-operator/prometheus-operator"},
	} {
		version, err := list(ctx, filepath.Join(tools, pinned.folder), "{{.Version}}", pinned.module)
		if err != nil {
			return "", "", err
		}
		name += "-" + version
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", fmt.Errorf("cache folder of Kubernetes: %w: set HOME or XDG_CACHE_HOME", err)
	}
	return tools, filepath.Join(cache, "otelcol-llamacpp", name), nil
}

// list asks for a property of a module that the module in a folder requires.
func list(ctx context.Context, folder, format, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", format, module)
	cmd.Dir = folder
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list -m %s in %s: %w", module, folder, err)
	}
	return strings.TrimSpace(string(out)), nil
}
