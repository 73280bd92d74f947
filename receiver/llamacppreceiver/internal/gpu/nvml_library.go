// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build cgo && linux

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"cmp"
	"os"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

const systemLibrary = "libnvidia-ml.so.1"

// library is the driver's library, through NVIDIA's binding.
type library struct {
	path    string
	nvml    nvml.Interface
	loaded  bool
	file    string      // the one that was loaded
	info    os.FileInfo // of that file; nil where it could not be had
	missing [calls]bool
	units   []*nvmlUnit
	set     nvml.EventSet // nil without events
	log     *sessionLog
	current atomic.Pointer[underWay]
}

// underWay is a call that is being made.
type underWay struct {
	call call
	gpu  string
}

func newDriver(path string) driver {
	return &library{path: cmp.Or(path, systemLibrary)}
}

func (l *library) calling() string {
	u := l.current.Load()
	if u == nil || u.call == noCall {
		return ""
	}
	if u.gpu == "" {
		return symbols[u.call][0]
	}
	return symbols[u.call][0] + " of " + u.gpu
}

func (l *library) open(log *sessionLog) (units []unit, skipped, err error) {
	l.log = log
	if err := l.load(); err != nil {
		return nil, nil, err
	}
	l.nvml = nvml.New(nvml.WithLibraryPath(l.path))
	l.current.Store(&underWay{call: callInit})
	defer l.current.Store(nil)
	if ret := l.nvml.Init(); ret != nvml.SUCCESS {
		return nil, nil, l.driverCondition(ret)
	}
	// The symbols can be looked up from now on.
	extensions := l.nvml.Extensions()
	for c := noCall + 1; c < calls; c++ {
		l.missing[c] = true
		for _, name := range symbols[c] {
			if extensions.LookupSymbol(name) == nil {
				l.missing[c] = false
				break
			}
		}
	}
	for _, c := range [...]call{callCount, callHandle, callUUID, callName} {
		if l.missing[c] {
			l.close()
			return nil, nil, unusable(symbols[c][0])
		}
	}
	l.current.Store(&underWay{call: callCount})
	n, ret := l.nvml.DeviceGetCount()
	if ret != nvml.SUCCESS {
		l.close()
		return nil, nil, l.driverCondition(ret)
	}
	l.units = nil
	l.current.Store(&underWay{call: callHandle})
	for i := range n {
		u, err := l.openUnit(i)
		if err != nil {
			skipped = err
			continue
		}
		l.units = append(l.units, u)
		units = append(units, u)
	}
	if len(units) == 0 && skipped == nil {
		l.close()
		return nil, nil, &condition{code: "none", absent: true, text: "the NVIDIA driver is there, but no GPU: checked again from time to time"}
	}
	l.listen()
	return units, skipped, nil
}

// load opens the library for good: functions that have been called once are
// bound to it for the life of the process, which is why the C library itself
// never unloads it again. It checks for the functions that are called before
// symbols can be looked up, since calling one that is missing ends the process.
func (l *library) load() error {
	if l.loaded {
		return nil
	}
	lib := dl.New(l.path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := lib.Open(); err != nil {
		return &condition{code: "library", absent: true, text: "no NVIDIA driver on this machine (" + err.Error() +
			"): checked again from time to time; in a container, have the NVIDIA runtime mount it with NVIDIA_DRIVER_CAPABILITIES=utility"}
	}
	if lib.Lookup("nvmlInit_v2") != nil && lib.Lookup("nvmlInit") != nil {
		return unusable("nvmlInit")
	}
	if lib.Lookup("nvmlShutdown") != nil {
		return unusable("nvmlShutdown")
	}
	l.loaded = true
	if file, err := lib.Path(); err == nil {
		if info, err := os.Stat(file); err == nil {
			l.file, l.info = file, info
		}
	}
	return nil
}

// replaced reports whether another library lies where the loaded one came from,
// as after an upgrade of the driver's package.
func (l *library) replaced() bool {
	if l.info == nil {
		return false
	}
	now, err := os.Stat(l.file)
	return err == nil && !os.SameFile(l.info, now)
}

func (l *library) openUnit(i int) (*nvmlUnit, error) {
	h, ret := l.nvml.DeviceGetHandleByIndex(i)
	if ret != nvml.SUCCESS {
		return nil, l.gpuCondition(ret)
	}
	id, ret := h.GetUUID()
	if ret != nvml.SUCCESS {
		return nil, l.gpuCondition(ret)
	}
	name, ret := h.GetName()
	if ret != nvml.SUCCESS {
		return nil, l.gpuCondition(ret)
	}
	u := &nvmlUnit{lib: l, handle: h, id: Identity{ID: id, Name: name, Index: i}}
	u.begin()
	return u, nil
}

func (l *library) close() {
	l.current.Store(&underWay{call: callShutdown})
	defer l.current.Store(nil)
	for _, u := range l.units {
		u.freeSamples()
	}
	if l.set != nil {
		if !l.missing[callEventSetFree] {
			_ = l.set.Free()
		}
		l.set = nil
	}
	_ = l.nvml.Shutdown() // whatever it returns, there is nothing left to do
	l.units = nil
}

// listen registers for the errors that GPUs report.
func (l *library) listen() {
	for _, c := range [...]call{callEventSet, callEventTypes, callEventRegister, callEventWait} {
		if l.missing[c] {
			return
		}
	}
	set, ret := l.nvml.EventSetCreate()
	if ret != nvml.SUCCESS {
		return
	}
	l.set = set
	for _, u := range l.units {
		types, ret := u.handle.GetSupportedEventTypes()
		if ret != nvml.SUCCESS || types&nvml.EventTypeXidCriticalError == 0 {
			continue
		}
		if ret := u.handle.RegisterEvents(nvml.EventTypeXidCriticalError, set); ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
			l.log.failed(u.failure(callEventRegister), "Xid errors of a GPU are not counted: "+name(ret))
		}
	}
}

func (l *library) waitEvent(timeout time.Duration) (id string, n uint64, more bool) {
	if l.set == nil {
		return "", 0, false
	}
	e, ret := l.set.Wait(uint32(timeout.Milliseconds()))
	switch ret {
	case nvml.SUCCESS:
	case nvml.ERROR_TIMEOUT:
		return "", 0, true
	case nvml.ERROR_GPU_IS_LOST:
		time.Sleep(timeout) // it returns at once, from now on
		return "", 0, true
	default:
		l.log.failed(failure{call: symbols[callEventWait][0]}, "Xid errors are not counted until the driver is opened anew: "+name(ret))
		return "", 0, false
	}
	if e.EventType != nvml.EventTypeXidCriticalError {
		return "", 0, true
	}
	for _, u := range l.units {
		if u.handle == e.Device {
			return u.id.ID, e.EventData, true
		}
	}
	return "", 0, true
}
