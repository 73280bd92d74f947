// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package gpu reads NVIDIA GPUs through NVML. A process has one session with
// the driver, which all its receivers share, and one goroutine that calls it:
// NVML takes a lock of its own, so that parallel calls would only queue. Of the
// receivers that have selected a GPU one reports it. The package knows no
// OpenTelemetry.
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

// State is the health of a GPU.
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
	// MemoryMaxOperating is the memory's own MaxOperating.
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

// Throttled is how long a GPU has been throttled for one reason.
type Throttled struct {
	Seconds float64
	// Sampled is set where the driver does not count the time. It is then the time
	// between readings that found the GPU throttled.
	Sampled bool
}

// Reading is what one GPU showed at one time. Ratios are from 0 to 1; counters
// never go back.
type Reading struct {
	Identity
	At time.Time
	// Since is the time of the GPU's first reading. When its counters began to count
	// what they held then is unknown.
	Since time.Time
	State State
	// Incomplete is set where a value that the GPU has could not be read this time.
	Incomplete bool
	// Report is set where this receiver is to report the GPU. Instances are always
	// those that this receiver is to report.
	Report bool

	Utilization, Encoder, Decoder Opt[float64]
	// MemoryBusy is the share of time during which the memory was read or written.
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
	// Processes are those that compute.
	Processes Opt[[]Process]
	Profile   Opt[Profile]
}

// Instance returns the identity of the MIG instance with a UUID; the zero value
// where it is not among the reading's.
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

// Profile are shares, from 0 to 1, of what the GPU or MIG instance could have
// done since the reading before. The Hopper generation and later have it.
type Profile struct{ SM, Occupancy, Tensor, DRAM Opt[float64] }

// Want is what a receiver asks for.
type Want struct {
	// Devices are the GPUs and MIG instances to look at; all by default.
	Devices []Selector
	// Processes and Profile ask for those fields of a reading, which take further
	// calls of the driver.
	Processes, Profile bool
	// Dedicated is set for a receiver of GPUs and nothing else. Of all that have
	// selected a GPU, such a one reports it, else the one that was opened first.
	Dedicated bool
	// Always is set for a receiver that reports what another one reports as well.
	Always bool
	// Name is the receiver's.
	Name string
	// Output is handed on with Shown, so that another receiver can end the series that
	// this one made of a reading.
	Output any
}

// Look is what the GPUs showed.
type Look struct {
	Readings []*Reading // in the order of their indexes
	// Ended was shown before and has ended, as far as the readings do not go on with
	// it.
	Ended []Shown
	// Down is set where the driver does not open, and so nothing is known.
	Down bool
	// Missing are the selected devices that are not there.
	Missing []Selector
	// Reporter is the name of another receiver that reports a GPU, or an instance,
	// which this one has selected; "" if none does.
	Reporter string
}
