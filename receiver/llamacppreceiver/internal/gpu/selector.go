// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Selector names a GPU, or a MIG instance of one, as NVIDIA's tools do: by UUID,
// by the GPU's index, or by both indexes, as in NVIDIA_VISIBLE_DEVICES.
type Selector struct {
	id         string
	gpu        int // index; used where id is empty
	instance   int // index on the GPU
	ofInstance bool
}

// ParseSelector reads 0, "GPU-8f5c…", "MIG-8f5c…" or "0:1".
func ParseSelector(v any) (Selector, error) {
	switch v := v.(type) {
	case int:
		if v >= 0 {
			return Selector{gpu: v}, nil
		}
	case string:
		switch {
		case strings.HasPrefix(v, "MIG-GPU-"):
			return Selector{}, fmt.Errorf("%q is the form of drivers before version 470: want the MIG-… that nvidia-smi -L lists, or \"GPU index:instance index\"", v)
		case strings.HasPrefix(v, "GPU-"):
			return Selector{id: v}, nil
		case strings.HasPrefix(v, "MIG-"):
			return Selector{id: v, ofInstance: true}, nil
		}
		if left, right, ok := strings.Cut(v, ":"); ok {
			g, err1 := strconv.ParseUint(left, 10, 16)
			i, err2 := strconv.ParseUint(right, 10, 16)
			if err1 == nil && err2 == nil {
				return Selector{gpu: int(g), instance: int(i), ofInstance: true}, nil
			}
		}
	}
	return Selector{}, fmt.Errorf(`%#v: want a GPU's index from 0 or its UUID such as GPU-8f5c2e6a-…, `+
		`or a MIG instance as "GPU index:instance index" such as "0:1" or by UUID such as MIG-8f5c2e6a-…; nvidia-smi -L lists them`, v)
}

func (s Selector) String() string {
	switch {
	case s.id != "":
		return s.id
	case s.ofInstance:
		return fmt.Sprintf("%d:%d", s.gpu, s.instance)
	}
	return strconv.Itoa(s.gpu)
}

func (s Selector) isGPU(g Identity) bool {
	if s.ofInstance {
		return false
	}
	if s.id != "" {
		return s.id == g.ID
	}
	return s.gpu == g.Index
}

func (s Selector) isInstance(g, in Identity) bool {
	if !s.ofInstance {
		return false
	}
	if s.id != "" {
		return s.id == in.ID
	}
	return s.gpu == g.Index && s.instance == in.Index
}

// selection is what a receiver has selected; an empty one is everything.
type selection []Selector

func (ss selection) gpu(g Identity) bool {
	return len(ss) == 0 || slices.ContainsFunc(ss, func(s Selector) bool { return s.isGPU(g) })
}

// instance reports whether a MIG instance is selected, by itself or with its GPU.
func (ss selection) instance(g, in Identity) bool {
	return ss.gpu(g) || slices.ContainsFunc(ss, func(s Selector) bool { return s.isInstance(g, in) })
}
