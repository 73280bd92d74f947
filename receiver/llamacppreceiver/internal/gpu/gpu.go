// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package gpu reads NVIDIA GPUs through NVML. A process has one session with
// the driver, which all its receivers share, and one goroutine that calls it:
// NVML takes a lock of its own, so that parallel calls would only queue. The
// package knows no OpenTelemetry.
package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import "time"

// Opt is a value that the driver may not give.
type Opt[T any] struct {
	V  T
	OK bool
}

func some[T any](v T) Opt[T] { return Opt[T]{v, true} }

// Identity says which GPU, or which MIG instance of one.
type Identity struct {
	ID    string // UUID
	Name  string
	Index int // changes when another GPU drops out
}

// State is how a GPU is.
type State int

const (
	OK State = iota
	// Degraded needs a reset soon: rows of memory are to be remapped.
	Degraded
	// PredictedFailure has no spare rows of memory left.
	PredictedFailure
	// Failed does not answer any more.
	Failed
)

// Clock is a clock domain.
type Clock int

const (
	Graphics Clock = iota
	SM
	Memory
	Video
	clocks
)

// Limit is a temperature limit.
type Limit int

const (
	// Slowdown is where the hardware halves the clocks, or worse.
	Slowdown Limit = iota
	// Shutdown is where the GPU switches itself off.
	Shutdown
	// MaxOperating is where the driver begins to lower the clocks.
	MaxOperating
	// MemoryMaxOperating is the same for the memory.
	MemoryMaxOperating
	limits
)

// Reason is why the clocks are lower than they could be.
type Reason int

const (
	PowerCap Reason = iota
	SyncBoost
	ThermalSoftware
	ThermalHardware
	PowerBrake
	HardwareSlowdown
	reasons
)

// bits are the reasons in NVML's mask.
var bits = [reasons]uint64{
	PowerCap: 0x4, HardwareSlowdown: 0x8, SyncBoost: 0x10, ThermalSoftware: 0x20, ThermalHardware: 0x40, PowerBrake: 0x80,
}

// Throttled is for how long a GPU has been throttled for one reason, in
// seconds. Sampled tells that the driver does not count it: the time is that
// between readings which found the GPU throttled.
type Throttled struct {
	Seconds float64
	Sampled bool
}

// Reading is what one GPU said at one time. Ratios are from 0 to 1, counters
// never go back.
type Reading struct {
	Identity
	At time.Time
	// Since is the GPU's first reading. What its counters held then has a beginning
	// that nobody knows.
	Since time.Time
	State State
	// Report tells that it is for this receiver to report the GPU, and for no other.
	// Instances are always those that this receiver is to report.
	Report bool

	Utilization, Encoder, Decoder Opt[float64]
	// MemoryBusy is the share of time in which the memory was read or written.
	MemoryBusy                     Opt[float64]
	MemoryUsed, MemoryTotal        Opt[uint64]  // bytes
	Power, PowerLimit              Opt[float64] // W
	Energy                         Opt[float64] // J, counter
	Temperature, MemoryTemperature Opt[float64] // Celsius
	Limits                         [limits]Opt[float64]
	Clocks, MaxClocks              [clocks]Opt[uint64] // Hz
	Reasons                        [reasons]Opt[bool]
	Throttled                      [reasons]Opt[Throttled] // counter
	Received, Transmitted          Opt[uint64]             // bytes over PCIe, counter
	PerformanceState               Opt[uint64]             // 0 is the fastest
	Fan                            Opt[float64]            // the fastest one's, of its maximum
	Corrected, Uncorrected         Opt[uint64]             // ECC errors, counter
	RemappedRows                   Opt[uint64]             // counter
	XIDs                           []XID                   // in order of number
	Instances                      []Instance
	// Processes are those that compute; not OK where they are not known.
	Processes Opt[[]Process]
	Profile   Opt[Profile]
}

// Instance is the identity of the MIG instance with a UUID, if it is among them.
func (r *Reading) Instance(id string) Identity {
	for _, in := range r.Instances {
		if in.ID == id {
			return in.Identity
		}
	}
	return Identity{}
}

// XID is an error that the driver has reported.
type XID struct{ Number, Count uint64 }

// Instance is a MIG instance.
type Instance struct {
	Identity
	MemoryUsed, MemoryTotal Opt[uint64] // bytes
	Profile                 Opt[Profile]
}

// Process is one that computes on a GPU.
type Process struct {
	PID      int         // in the host's namespace
	Memory   Opt[uint64] // bytes; unknown in some containers
	Instance string      // UUID of the MIG instance that it runs on
}

// Profile are shares of what the GPU, or MIG instance, could do, from 0 to 1,
// since the reading before: GPUs of the Hopper generation and later.
type Profile struct{ SM, Occupancy, Tensor, DRAM Opt[float64] }

// Want is what a receiver asks for.
type Want struct {
	// Devices are those to look at; all by default.
	Devices []Selector
	// Processes and Profile take in more than the rest.
	Processes bool
	Profile   bool
	// Reports are the metrics that the receiver makes of a GPU, a bit each.
	Reports uint64
	// Dedicated is a receiver of GPUs and nothing else.
	Dedicated bool
	// Always reports what other receivers report, too.
	Always bool
	// Name is the receiver's.
	Name string
}

// over tells whether a receiver reports a GPU instead of another that has it,
// too. A receiver of nothing else goes first, as it is there for that; and one
// does not stand in for another that makes more of a GPU than itself.
func (w *Want) over(other *Want) bool {
	switch {
	case w.Always || other.Always:
		return false
	case w.Dedicated != other.Dedicated:
		return w.Dedicated
	}
	return other.Reports&^w.Reports == 0
}

// Look is what the GPUs said.
type Look struct {
	Readings []*Reading // in order of index
	// Missing are the wanted devices that are not there.
	Missing []Selector
	// By is another receiver that reports a GPU that is wanted, if one does.
	By string
}
