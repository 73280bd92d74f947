// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package fakenvml builds an NVIDIA driver's library for tests without a GPU: the
// real binding loads it, and the test scripts what it answers.
package fakenvml

import (
	"cmp"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// Limits of what the library can hold.
const (
	MaxGPUs      = 16
	MaxInstances = 8
	MaxProcesses = 16
)

// Results that the driver's functions return, as in nvml.h.
const (
	Success            = 0
	Uninitialized      = 1
	NotSupported       = 3
	NoPermission       = 4
	DriverNotLoaded    = 9
	GPUIsLost          = 15
	ResetRequired      = 16
	LibRMMismatch      = 18
	NoData             = 21
	Unknown            = 999
	xidEvent           = 8
	maxRules, maxCalls = 64, 128
	maxEvents          = 64
)

type text [96]byte

// Process uses a GPU, or under MIG the instance with this index.
type Process struct{ PID, Memory, Instance uint64 }

// Instance is a MIG device.
type Instance struct {
	uuid, name  text
	Total, Used uint64
	GPMValues   [4]float64
}

// GPU is what the library answers for one GPU; see driver/fakenvml.c for units.
type GPU struct {
	uuid, name                                                                 text
	Lost                                                                       uint64
	Utilization, MemoryUtilization, Encoder, Decoder                           uint64
	MemoryTotal, MemoryReserved, MemoryUsed                                    uint64
	Power, PowerLimit                                                          uint64
	Energy                                                                     uint64
	Temperature, MemoryTemperature, Slowdown, Shutdown, MaxTemperature, MemMax uint64
	Clocks, MaxClocks                                                          [4]uint64 // graphics, SM, memory, video
	Reasons                                                                    uint64
	Throttled                                                                  [5]uint64 // power cap, sync boost, software and hardware thermal, power brake
	Transmitted, Received                                                      uint64
	PerformanceState, Fans, Fan                                                uint64
	Corrected, Uncorrected                                                     uint64
	RemappedCorrected, RemappedUncorrected, RemapPending, RemapFailed          uint64
	GPM                                                                        uint64
	GPMValues                                                                  [4]float64
	MIG                                                                        uint64
	ProcessCount, InstanceCount                                                uint64
	Processes                                                                  [MaxProcesses]Process
	Instances                                                                  [MaxInstances]Instance
}

type rule struct {
	call          [64]byte
	gpu           int64
	result, delay uint64
}

type call struct {
	name  [64]byte
	count uint64
}

type event struct{ gpu, kind, data uint64 }

type state struct {
	size                      uint64
	version                   uint64
	init                      uint64
	initialised               uint64
	gpuCount                  uint64
	samplesUsed               uint64
	eventsWritten, eventsRead uint64
	events                    [maxEvents]event
	rules                     [maxRules]rule
	calls                     [maxCalls]call
	gpus                      [MaxGPUs]GPU
}

// Driver is one library with its state.
type Driver struct {
	// Path is the library's, named libnvidia-ml.so.1.
	Path   string
	memory []byte
	*state
}

// Options are those of a new library.
type Options struct {
	// GPUs is the number of GPUs at first.
	GPUs int
	// Without names functions that the library lacks.
	Without []string
	// Later leaves the library out of its folder until Install.
	Later bool
}

// first is the version of a library that New builds.
const first = 1

// New builds a driver's library in the folder.
func New(folder string, o Options) (*Driver, error) {
	d := &Driver{Path: filepath.Join(folder, "libnvidia-ml.so.1")}
	if err := d.share(); err != nil {
		return nil, err
	}
	d.gpuCount = uint64(o.GPUs)
	for i := range MaxGPUs {
		d.gpus[i] = Typical(i)
	}
	if err := build(d.Path+".later", first, o.Without); err != nil {
		return nil, err
	}
	if !o.Later {
		if err := d.Install(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Start is New for a test, in a folder of its own.
func Start(tb testing.TB, o Options) *Driver {
	tb.Helper()
	d, err := New(tb.TempDir(), o)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// Replace puts a library of another version in the place of the first, as a
// package manager does: by a rename, so that a library that is loaded lives on.
func (d *Driver) Replace(version int) error {
	if err := build(d.Path+".later", version, nil); err != nil {
		return err
	}
	return d.Install()
}

// Version is the version of the library that was initialised last.
func (d *Driver) Version() int { return int(d.version) }

// Install puts the library where it is looked for.
func (d *Driver) Install() error { return os.Rename(d.Path+".later", d.Path) }

// Folder is the library's folder, for LD_LIBRARY_PATH.
func (d *Driver) Folder() string { return filepath.Dir(d.Path) }

func (d *Driver) share() error {
	f, err := os.OpenFile(d.Path+".state", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(state{}))
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	// Never unmapped: the library may still look into it.
	d.memory, err = syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	d.state = (*state)(unsafe.Pointer(&d.memory[0]))
	return nil
}

// objects are the compiled source, by version. Compiling takes far longer than
// linking, and the libraries of a test differ in what they lack.
var objects = struct {
	sync.Mutex
	compiled map[int][]byte
}{compiled: map[int][]byte{}}

// compile writes an object with the C compiler that cgo uses, against the
// declarations of the binding.
func compile(path string, version int) error {
	objects.Lock()
	defer objects.Unlock()
	if object := objects.compiled[version]; object != nil {
		return os.WriteFile(path, object, 0o600)
	}
	_, self, _, _ := runtime.Caller(0)
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml")
	list.Dir = filepath.Dir(self)
	binding, err := list.Output()
	if err != nil {
		return fmt.Errorf("find go-nvml's nvml.h: %w", err)
	}
	source := filepath.Join(filepath.Dir(self), "driver", "fakenvml.c")
	err = cc("-c", "-fPIC", "-O1", "-Wall", fmt.Sprintf("-DVERSION=%d", version),
		"-I"+filepath.Join(strings.TrimSpace(string(binding)), "pkg", "nvml"), "-o", path, source)
	if err != nil {
		return fmt.Errorf("compile %s: %w", source, err)
	}
	objects.compiled[version], err = os.ReadFile(path)
	return err
}

func cc(args ...string) error {
	if out, err := exec.Command(cmp.Or(os.Getenv("CC"), "cc"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// build links a library that lacks some functions.
func build(path string, version int, without []string) error {
	object := path + ".o"
	if err := compile(object, version); err != nil {
		return err
	}
	args := []string{"-shared", "-Wl,-soname,libnvidia-ml.so.1", "-o", path, object}
	if len(without) > 0 {
		hidden := path + ".map"
		if err := os.WriteFile(hidden, []byte("{ local: "+strings.Join(without, "; ")+"; };\n"), 0o600); err != nil {
			return err
		}
		args = append(args, "-Wl,--version-script="+hidden)
	}
	if err := cc(args...); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	return nil
}

// Loaded reports whether a process has loaded the library. It panics where C and
// Go differ in the layout of the state.
func (d *Driver) Loaded() bool {
	if d.size != 0 && d.size != uint64(unsafe.Sizeof(state{})) {
		panic(fmt.Sprintf("fakenvml: struct state has %d bytes in C and %d in Go", d.size, unsafe.Sizeof(state{})))
	}
	return d.size != 0
}

// Reset makes it a driver with n typical GPUs, without rules, events and calls.
func (d *Driver) Reset(n int) {
	d.init, d.gpuCount = Success, uint64(n)
	d.rules = [maxRules]rule{}
	d.eventsRead = d.eventsWritten
	for i := range d.calls {
		d.calls[i].count = 0
	}
	for i := range d.gpus {
		d.gpus[i] = Typical(i)
	}
}

// Typical returns GPU number i, at work.
func Typical(i int) GPU {
	n := uint64(i)
	g := GPU{
		Utilization: 90 + n, MemoryUtilization: 70 + n, Encoder: 1, Decoder: 2,
		MemoryTotal: 80 << 30, MemoryReserved: 600 << 20, MemoryUsed: (10 + n) << 30,
		Power: 310_500, PowerLimit: 700_000, Energy: 5_000_000_000 + 1000*n,
		Temperature: 61 + n, MemoryTemperature: 70 + n, Slowdown: 88, Shutdown: 93, MaxTemperature: 85, MemMax: 95,
		Clocks: [4]uint64{1755, 1755, 2619, 1545}, MaxClocks: [4]uint64{1980, 1980, 2619, 1980},
		Reasons:     0x4,
		Throttled:   [5]uint64{12_500_000_000, 0, 1_000_000_000, 0, 0},
		Transmitted: 3_000_000_000, Received: 9_000_000_000,
		Fans: 1, Fan: 45, Corrected: 3, RemappedCorrected: 1,
		GPMValues: [4]float64{88, 41, 33, 67},
	}
	copy(g.uuid[:], fmt.Sprintf("GPU-00000000-0000-4000-8000-%012d", i))
	copy(g.name[:], "NVIDIA Fake H100")
	return g
}

// UUID returns the UUID of GPU number i.
func (d *Driver) UUID(i int) string { return d.gpus[i].uuid.String() }

// GPU returns GPU number i, to be changed at will.
func (d *Driver) GPU(i int) *GPU { return &d.gpus[i] }

// SetCount sets the number of GPUs.
func (d *Driver) SetCount(n int) { d.gpuCount = uint64(n) }

// SetInit sets what the initialisation returns.
func (d *Driver) SetInit(result uint64) { d.init = result }

// Sessions returns how many initialisations have not been shut down.
func (d *Driver) Sessions() int { return int(d.initialised) }

// SetInstances gives GPU number i MIG instances.
func (d *Driver) SetInstances(i int, total uint64, used ...uint64) {
	g := &d.gpus[i]
	g.MIG, g.InstanceCount = 1, uint64(len(used))
	for n, u := range used {
		in := Instance{Total: total, Used: u, GPMValues: [4]float64{float64(50 + n), 40, 30, 20}}
		copy(in.uuid[:], fmt.Sprintf("MIG-00000000-0000-4000-8000-%06d%06d", i, n))
		copy(in.name[:], "NVIDIA Fake H100 MIG 1g.10gb")
		g.Instances[n] = in
	}
}

// Samples returns how many samples of performance counters are allocated.
func (d *Driver) Samples() int { return bits.OnesCount64(d.samplesUsed) }

// InstanceUUID returns the UUID of a MIG instance of GPU number i.
func (d *Driver) InstanceUUID(i, instance int) string {
	return d.gpus[i].Instances[instance].uuid.String()
}

// SetProcesses sets the processes that use GPU number i.
func (d *Driver) SetProcesses(i int, ps ...Process) {
	d.gpus[i].ProcessCount = uint64(copy(d.gpus[i].Processes[:], ps))
}

// XID makes GPU number i report the Xid error of this number.
func (d *Driver) XID(i int, number uint64) {
	d.events[d.eventsWritten%maxEvents] = event{gpu: uint64(i), kind: xidEvent, data: number}
	d.eventsWritten++
}

// Fail makes a function return a result for one GPU, or with -1 for all. The name
// nvmlDeviceGetFieldValues:ID stands for a single field.
func (d *Driver) Fail(function string, gpu int, result uint64) { d.add(function, gpu, result, 0) }

// Delay makes a function take that long, or until Clear.
func (d *Driver) Delay(function string, gpu int, by time.Duration) {
	d.add(function, gpu, Success, uint64(by.Milliseconds()))
}

// Clear ends all rules, and the delays under way.
func (d *Driver) Clear() { d.rules = [maxRules]rule{} }

func (d *Driver) add(function string, gpu int, result, delay uint64) {
	for i := range d.rules {
		r := &d.rules[i]
		if r.call[0] != 0 {
			continue
		}
		r.gpu, r.result, r.delay = int64(gpu), result, delay
		copy(r.call[1:], function[1:])
		r.call[0] = function[0] // from now on the library sees the rule
		return
	}
	panic("fakenvml: too many rules")
}

// Calls returns how often a function has been called.
func (d *Driver) Calls(function string) int {
	for i := range d.calls {
		if d.calls[i].function() == function {
			return int(d.calls[i].count)
		}
	}
	return 0
}

// AllCalls returns how often all functions together have been called, except the
// wait for events, which goes on meanwhile.
func (d *Driver) AllCalls() int {
	n := 0
	for i := range d.calls {
		if d.calls[i].function() != "nvmlEventSetWait_v2" {
			n += int(d.calls[i].count)
		}
	}
	return n
}

// function returns the name of the function that was called.
func (c *call) function() string { return strings.TrimRight(string(c.name[:]), "\x00") }

func (t text) String() string { return strings.TrimRight(string(t[:]), "\x00") }
