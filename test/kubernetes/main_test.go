// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/kubetest"
)

const manifests = "../../deploy/kubernetes"

// cluster has the manifests of overlays/production.
var cluster *kubetest.Cluster

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "kubernetes-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if cluster, err = kubetest.Start(ctx, dir); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	if _, err := cluster.Kubectl(ctx, nil, "apply", "-k", manifests+"/overlays/production"); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// overlays are the folders that users apply.
func overlays(t *testing.T) []string {
	t.Helper()
	folders, err := filepath.Glob(manifests + "/overlays/*")
	require.NoError(t, err)
	require.Greater(t, len(folders), 3)
	return folders
}

// object is a manifest.
type object map[string]any

// at is the value at a path of keys; numbers are positions in lists. It is nil
// where there is none.
func (o object) at(path ...any) any {
	var v any = map[string]any(o)
	for _, key := range path {
		switch in := v.(type) {
		case map[string]any:
			v = in[key.(string)]
		case []any:
			i, ok := key.(int)
			if !ok || i >= len(in) {
				return nil
			}
			v = in[i]
		default:
			return nil
		}
	}
	return v
}

func (o object) text(path ...any) string {
	s, _ := o.at(path...).(string)
	return s
}

func (o object) part(path ...any) object {
	m, _ := o.at(path...).(map[string]any)
	return m
}

func (o object) name() string {
	return o.text("kind") + "/" + o.text("metadata", "name")
}

func (o object) json(t *testing.T) []byte {
	t.Helper()
	text, err := json.Marshal(o)
	require.NoError(t, err)
	return text
}

// texts has what Kustomize made of each folder.
var texts sync.Map

// built are the manifests that a folder makes.
func built(t *testing.T, folder string) []object {
	t.Helper()
	text, known := texts.Load(folder)
	if !known {
		made, err := kubetest.Kustomize(t.Context(), folder)
		require.NoError(t, err)
		text, _ = texts.LoadOrStore(folder, made)
	}
	var all []object
	for d := yaml.NewDecoder(bytes.NewReader(text.([]byte))); ; {
		var o map[string]any // the type of what is in it, too
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, o)
	}
}

// find is the one manifest of that kind and name.
func find(t *testing.T, all []object, name string) object {
	t.Helper()
	for _, o := range all {
		if o.name() == name {
			return o
		}
	}
	require.Fail(t, "no "+name)
	return nil
}

// kubectl runs a command that has to succeed.
func kubectl(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	out, err := cluster.Kubectl(t.Context(), input, args...)
	require.NoError(t, err)
	return out
}
