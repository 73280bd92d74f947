// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

// counter goes on where the driver's begins anew.
type counter struct {
	base, last uint64
	seen       bool
}

// add takes in what the driver's counter shows and returns the sum.
func (c *counter) add(v uint64) uint64 {
	return c.addWrapping(v, 64, false)
}

// addWrapping is add for a counter that goes back to zero after so many bits. A
// counter that goes back has wrapped, unless it is known to have begun anew.
func (c *counter) addWrapping(v uint64, bits int, anew bool) uint64 {
	if c.seen && v < c.last {
		if !anew && bits < 64 && c.last>>bits == 0 {
			c.base += 1 << bits
		} else {
			c.base += c.last
		}
	}
	c.last, c.seen = v, true
	return c.base + v
}

// addOpt is add for a value that the driver may not give.
func (c *counter) addOpt(v Opt[uint64]) Opt[uint64] {
	if !v.OK {
		return v
	}
	return some(c.add(v.V))
}

// pcieBits is the width of the driver's PCIe counters: nvml.h only says that
// they wrap, and the kernel interface (NV2080_CTRL_BUS_GET_PEX_UTIL_COUNTERS) has
// 32 bits. A counter that is found above that is taken for a wider one.
const pcieBits = 32
