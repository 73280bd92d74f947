// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// profiler compares a sample with the one before.
type profiler struct {
	samples [2]nvml.GpmSample // the last one and the next
	at      time.Time         // of the last one; zero without one
	last    Opt[Profile]
}

// profileGap is how often the driver refreshes what it samples: two samples that
// are closer together show nothing.
const profileGap = 100 * time.Millisecond

func (u *nvmlUnit) readProfiles(r *raw) {
	if !u.mig {
		r.Profile = u.profile.read(u, callProfileSample, func(s nvml.GpmSample) nvml.Return { return s.Get(u.handle) })
		return
	}
	for i, m := range u.migs {
		if m.instance.OK {
			r.Instances[i].Profile = m.profile.read(u, callProfileSampleMIG, func(s nvml.GpmSample) nvml.Return { return s.MigGet(u.handle, m.instance.V) })
		}
	}
}

func (p *profiler) read(u *nvmlUnit, c call, sample func(nvml.GpmSample) nvml.Return) (profile Opt[Profile]) {
	now := time.Now()
	if now.Sub(p.at) < profileGap {
		return p.last
	}
	p.last = profile
	if p.samples[0] == nil && !p.alloc(u) || !u.may(c) {
		return profile
	}
	if ret := sample(p.samples[1]); !u.tookOfInstance(c, ret) {
		return profile
	}
	first := p.at.IsZero()
	p.samples[0], p.samples[1], p.at = p.samples[1], p.samples[0], now
	if first || !u.may(callProfile) {
		return profile
	}
	ids := [...]nvml.GpmMetricId{nvml.GPM_METRIC_SM_UTIL, nvml.GPM_METRIC_SM_OCCUPANCY, nvml.GPM_METRIC_ANY_TENSOR_UTIL, nvml.GPM_METRIC_DRAM_BW_UTIL}
	get := &nvml.GpmMetricsGetType{NumMetrics: uint32(len(ids)), Sample1: p.samples[1], Sample2: p.samples[0]}
	for i, id := range ids {
		get.Metrics[i].MetricId = uint32(id)
	}
	if !u.took(callProfile, u.lib.nvml.GpmMetricsGet(get)) {
		return profile
	}
	profile.OK = true
	for i, to := range [...]*Opt[float64]{&profile.V.SM, &profile.V.Occupancy, &profile.V.Tensor, &profile.V.DRAM} {
		if nvml.Return(get.Metrics[i].NvmlReturn) == nvml.SUCCESS {
			*to = percent(get.Metrics[i].Value)
		}
	}
	p.last = profile
	return profile
}

func (p *profiler) alloc(u *nvmlUnit) bool {
	if !u.may(callProfileSupport) {
		return false
	}
	s, ret := u.handle.GpmQueryDeviceSupport()
	if !u.took(callProfileSupport, ret) {
		return false
	}
	if s.IsSupportedDevice == 0 {
		u.verdicts[callProfileSupport] = refused
		return false
	}
	for i := range p.samples {
		if !u.may(callProfileAlloc) {
			p.free(u)
			return false
		}
		sample, ret := u.lib.nvml.GpmSampleAlloc()
		if !u.took(callProfileAlloc, ret) {
			p.free(u)
			return false
		}
		p.samples[i] = sample
	}
	return true
}

func (p *profiler) free(u *nvmlUnit) {
	for _, s := range p.samples {
		if s != nil && !u.lib.missing[callProfileFree] {
			_ = s.Free()
		}
	}
	*p = profiler{}
}

func (u *nvmlUnit) freeSamples() {
	u.profile.free(u)
	for _, m := range u.migs {
		m.profile.free(u)
	}
}
