// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Device names a GPU, or a MIG instance of one, as NVIDIA's tools do: by UUID,
// by the GPU's index, or by both indexes, as in NVIDIA_VISIBLE_DEVICES.
type Device struct {
	id         string
	gpu        int // index; used where id is empty
	instance   int // index on the GPU
	ofInstance bool
}

// ParseDevice reads 0, "GPU-8f5c…", "MIG-8f5c…" or "0:1".
func ParseDevice(v any) (Device, error) {
	switch v := v.(type) {
	case int:
		if v >= 0 {
			return Device{gpu: v}, nil
		}
	case string:
		switch {
		case strings.HasPrefix(v, "MIG-GPU-"):
			return Device{}, fmt.Errorf("%q is the form of drivers before version 470: want the MIG-… that nvidia-smi -L lists, or \"GPU index:instance index\"", v)
		case strings.HasPrefix(v, "GPU-"):
			return Device{id: v}, nil
		case strings.HasPrefix(v, "MIG-"):
			return Device{id: v, ofInstance: true}, nil
		}
		if left, right, ok := strings.Cut(v, ":"); ok {
			g, err1 := strconv.ParseUint(left, 10, 16)
			i, err2 := strconv.ParseUint(right, 10, 16)
			if err1 == nil && err2 == nil {
				return Device{gpu: int(g), instance: int(i), ofInstance: true}, nil
			}
		}
	}
	return Device{}, fmt.Errorf(`%#v: want a GPU's index from 0 or its UUID such as GPU-8f5c2e6a-…, `+
		`or a MIG instance as "GPU index:instance index" such as "0:1" or by UUID such as MIG-8f5c2e6a-…; nvidia-smi -L lists them`, v)
}

func (d Device) String() string {
	switch {
	case d.id != "":
		return d.id
	case d.ofInstance:
		return fmt.Sprintf("%d:%d", d.gpu, d.instance)
	}
	return strconv.Itoa(d.gpu)
}

func (d Device) isGPU(g Identity) bool {
	if d.ofInstance {
		return false
	}
	if d.id != "" {
		return d.id == g.ID
	}
	return d.gpu == g.Index
}

func (d Device) isInstance(g, in Identity) bool {
	if !d.ofInstance {
		return false
	}
	if d.id != "" {
		return d.id == in.ID
	}
	return d.gpu == g.Index && d.instance == in.Index
}

// choice are the chosen devices; none chooses all.
type choice []Device

func (c choice) gpu(g Identity) bool {
	return len(c) == 0 || slices.ContainsFunc(c, func(d Device) bool { return d.isGPU(g) })
}

// instance tells whether a MIG instance is chosen, be it with its GPU.
func (c choice) instance(g, in Identity) bool {
	return c.gpu(g) || slices.ContainsFunc(c, func(d Device) bool { return d.isInstance(g, in) })
}
