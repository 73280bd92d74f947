// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import "time"

// driver is NVIDIA's library.
type driver interface {
	// open connects and lists the GPUs. skipped says why a GPU that is there could
	// not be opened. After an error nothing is left open.
	open(log *sessionLog) (units []unit, skipped error, err error)
	// close ends what open began.
	close()
	// waitEvent waits for an Xid error of a GPU, whose UUID it returns. n is 0 when
	// none came. It reports whether there is a use in waiting again.
	waitEvent(timeout time.Duration) (id string, n uint64, more bool)
	// calling names the function that is being called and the GPU; "" for none.
	calling() string
}

// unit is one GPU as the driver knows it.
type unit interface {
	identity() Identity
	// read fills the reading; slow asks for the values that hardly ever change as
	// well. An error is a *condition: the GPU, or the whole driver, is gone.
	read(r *raw, want Want, slow bool) error
}

// raw is a reading with the driver's own counters, which can begin anew.
type raw struct {
	Reading
	throttled    [reasons]Opt[uint64] // ns
	reasons      Opt[uint64]          // a mask
	remapped     Opt[uint64]
	remapPending bool
	remapFailed  bool
}

// keepSlow copies the values that hardly ever change.
func (r *raw) keepSlow(from *raw) {
	r.MemoryTotal, r.PowerLimit = from.MemoryTotal, from.PowerLimit
	r.Limits, r.MaxClocks = from.Limits, from.MaxClocks
	r.Corrected, r.Uncorrected = from.Corrected, from.Uncorrected
	r.remapped, r.remapPending, r.remapFailed = from.remapped, from.remapPending, from.remapFailed
	r.Incomplete = from.Incomplete
}

// condition is an error: why the driver, or a GPU, cannot be read.
type condition struct {
	// code distinguishes one condition from another.
	code string
	text string
	// absent is set where there is simply no GPU, which is no fault.
	absent bool
	// whole is set where it concerns the driver and not one GPU.
	whole bool
}

func (c *condition) Error() string { return c.text }

var errUnlisted error = &condition{code: "unlisted", text: "the driver does not list it any more"}
