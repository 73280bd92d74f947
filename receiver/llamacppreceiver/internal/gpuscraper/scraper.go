// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpuscraper // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper"

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpuscraper/internal/metadata"
	"github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/stale"
)

// GPUs is what the scraper needs of a gpu.Handle.
type GPUs interface {
	Look(ctx context.Context, fresh, patience time.Duration) gpu.Look
	Ended() []gpu.Shown
}

// Server is the one that the receiver watches, as seen from the host.
type Server interface {
	// Processes are the ids of the server's processes, its children included. An
	// error says why they cannot be known.
	Processes(ctx context.Context) ([]int, error)
}

// Scraper turns readings of GPUs into metrics.
type Scraper struct {
	cfg            Config
	set            receiver.Settings
	log            *zap.Logger
	gpus           GPUs
	host           pcommon.Resource
	server         Server // nil without one
	serverResource func() (r pcommon.Resource, known bool)
	mb             *metadata.MetricsBuilder
	energy         map[string]energy // by UUID
	programs       map[int]string    // names, by process id
	held           held              // by the server

	// As they were logged.
	missing       string // devices that are not there
	reporter      string // another receiver that reports the GPUs
	unknownMemory string // why it is not known what the server holds
}

// energy is the last reading of a GPU's counter.
type energy struct {
	joules float64
	at     time.Time
}

// New returns a scraper. The GPUs are on the resource of the host. What the
// server, if there is one, holds of them is on the server's resource, and left
// out while that is not known: a resource that changes a second later would
// leave two series behind for minutes.
func New(cfg *Config, set receiver.Settings, gpus GPUs, host pcommon.Resource, server Server, serverResource func() (r pcommon.Resource, known bool)) *Scraper {
	return &Scraper{
		cfg: *cfg, set: set, log: set.Logger, gpus: gpus, host: host, server: server, serverResource: serverResource,
		mb:     metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, set),
		energy: map[string]energy{},
	}
}

// Scrape looks at the GPUs once. A GPU that is missing is no error: the log has
// said so when it began.
func (s *Scraper) Scrape(ctx context.Context) (pmetric.Metrics, error) {
	interval := s.cfg.ControllerConfig.CollectionInterval
	look := s.gpus.Look(ctx, interval/2, interval)
	s.logNews(look)
	for _, p := range look.Ended {
		if _, ok := s.energy[p.ID]; !ok && p.Energy.OK { // the mean goes on with the receiver before
			s.energy[p.ID] = energy{p.Energy.V, p.At}
		}
	}
	for _, r := range look.Readings {
		s.mb.Reset(metadata.WithStartTime(pcommon.NewTimestampFromTime(r.Since)))
		s.record(r, s.meanPower(r))
	}
	ended := s.recordShown(look.Ended) // with the names that recordProcesses forgets
	s.recordProcesses(look.Readings)
	s.mb.EmitForResource(metadata.WithResource(s.host))
	if s.server != nil && s.cfg.MetricsBuilderConfig.Metrics.LlamacppGpuMemoryUsage.Enabled {
		s.recordServer(ctx, look, ended)
	}
	md := s.mb.Emit()
	setParents(md, parents(look.Readings...))
	if ended.ResourceMetrics().Len() > 0 {
		stale.Mark(ended, md, first(look.Readings), md)
	}
	return md, nil
}

// End ends the series of what no other receiver goes on with. The handle must be
// closed, and there must be no further scrape.
func (s *Scraper) End() pmetric.Metrics {
	ended, out := s.recordShown(s.gpus.Ended()), pmetric.NewMetrics()
	s.addHeld(s.held, ended)
	stale.Mark(ended, pmetric.NewMetrics(), time.Now(), out)
	return out
}

// output says which series a receiver makes of a reading.
type output struct {
	cfg  *Config
	host pcommon.Resource
}

// recordShown returns the metrics of what was shown, by whichever receiver. The
// names of processes are known only of this one's.
func (s *Scraper) recordShown(parts []gpu.Shown) pmetric.Metrics {
	out := pmetric.NewMetrics()
	for _, p := range parts {
		o := p.Output.(output)
		by := New(o.cfg, s.set, nil, o.host, nil, nil)
		by.record(p.Reading, p.Energy)
		if p.Own {
			by.programs = s.programs
			by.recordProcesses([]*gpu.Reading{p.Reading})
		}
		md := by.mb.Emit(metadata.WithResource(o.host))
		setParents(md, parents(p.Reading))
		md.ResourceMetrics().MoveAndAppendTo(out.ResourceMetrics())
	}
	return out
}

// first returns the time of the first reading, now where there is none.
func first(readings []*gpu.Reading) time.Time {
	at := time.Now()
	for _, r := range readings {
		if r.At.Before(at) {
			at = r.At
		}
	}
	return at
}

// logNews logs which devices are missing, and who reports the GPUs, when that
// has changed.
func (s *Scraper) logNews(look gpu.Look) {
	if missing := fmt.Sprint(look.Missing); len(look.Missing) > 0 && missing != s.missing {
		s.missing = missing
		s.log.Warn("devices of scrapers::gpu::devices are not there: nvidia-smi -L lists those that are", zap.Stringers("devices", look.Missing))
	}
	if look.Reporter != "" && look.Reporter != s.reporter {
		s.reporter = look.Reporter
		s.log.Info("another receiver of this collector reports the GPUs, this one only what its server holds of them: "+
			"scrapers::gpu::report: always makes it report them as well", zap.String("receiver", look.Reporter))
	}
}

// point is where and when a value belongs.
type point struct {
	mb       *metadata.MetricsBuilder
	at       pcommon.Timestamp
	id, name string
}

const (
	vendor = "NVIDIA"
	kind   = metadata.AttributeHwTypeGpu
)

var (
	clockNames = [...]metadata.AttributeNvidiaGpuClock{
		gpu.Graphics: metadata.AttributeNvidiaGpuClockGraphics, gpu.SM: metadata.AttributeNvidiaGpuClockSm,
		gpu.Memory: metadata.AttributeNvidiaGpuClockMemory, gpu.Video: metadata.AttributeNvidiaGpuClockVideo,
	}
	limitNames = [...]struct {
		limit  metadata.AttributeHwLimitType
		sensor metadata.AttributeHwSensorLocation
	}{
		gpu.Slowdown:           {metadata.AttributeHwLimitTypeThrottled, metadata.AttributeHwSensorLocationGpu},
		gpu.Shutdown:           {metadata.AttributeHwLimitTypeHighCritical, metadata.AttributeHwSensorLocationGpu},
		gpu.MaxOperating:       {metadata.AttributeHwLimitTypeHighDegraded, metadata.AttributeHwSensorLocationGpu},
		gpu.MemoryMaxOperating: {metadata.AttributeHwLimitTypeHighDegraded, metadata.AttributeHwSensorLocationMemory},
	}
	reasonNames = [...]metadata.AttributeNvidiaGpuThrottleReason{
		gpu.PowerCap:         metadata.AttributeNvidiaGpuThrottleReasonPowerCap,
		gpu.SyncBoost:        metadata.AttributeNvidiaGpuThrottleReasonSyncBoost,
		gpu.ThermalSoftware:  metadata.AttributeNvidiaGpuThrottleReasonThermalSw,
		gpu.ThermalHardware:  metadata.AttributeNvidiaGpuThrottleReasonThermalHw,
		gpu.PowerBrake:       metadata.AttributeNvidiaGpuThrottleReasonPowerBrake,
		gpu.HardwareSlowdown: metadata.AttributeNvidiaGpuThrottleReasonHwSlowdown,
	}
	stateNames = [...]metadata.AttributeHwState{
		gpu.OK: metadata.AttributeHwStateOk, gpu.Degraded: metadata.AttributeHwStateDegraded,
		gpu.PredictedFailure: metadata.AttributeHwStatePredictedFailure, gpu.Failed: metadata.AttributeHwStateFailed,
	}
)

// double records a value, if there is one, of a metric without further
// attributes.
func (p point) double(v gpu.Opt[float64], record func(*metadata.MetricsBuilder, pcommon.Timestamp, float64, string, string, metadata.AttributeHwType, string)) {
	if v.OK {
		record(p.mb, p.at, v.V, p.id, p.name, kind, vendor)
	}
}

func (s *Scraper) record(r *gpu.Reading, mean gpu.Opt[float64]) {
	p := point{s.mb, pcommon.NewTimestampFromTime(r.At), r.ID, r.Name}
	for _, in := range r.Instances {
		at := point{s.mb, p.at, in.ID, in.Name}
		s.recordMemory(at, in.MemoryUsed, in.MemoryTotal)
		at.profile(in.Profile)
	}
	if !r.Report {
		return
	}
	p.double(mean, (*metadata.MetricsBuilder).RecordNvidiaGpuPowerMeanDataPoint)
	for i, name := range stateNames {
		s.mb.RecordHwStatusDataPoint(p.at, one(r.State == gpu.State(i)), p.id, p.name, name, kind, vendor)
	}
	s.recordErrors(p, r)
	s.recordUse(p, r)
	s.recordPower(p, r)
	s.recordThrottling(p, r)
}

func one(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

func (s *Scraper) recordErrors(p point, r *gpu.Reading) {
	for _, e := range [...]struct {
		kind  string
		count gpu.Opt[uint64]
	}{{"ecc.corrected", r.Corrected}, {"ecc.uncorrected", r.Uncorrected}, {"row_remap", r.RemappedRows}} {
		if e.count.OK {
			s.mb.RecordHwErrorsDataPoint(p.at, int64(e.count.V), e.kind, p.id, p.name, kind, vendor)
		}
	}
	for _, x := range r.XIDs {
		s.mb.RecordHwErrorsDataPoint(p.at, int64(x.Count), "xid."+strconv.FormatUint(x.Number, 10), p.id, p.name, kind, vendor)
	}
}

func (s *Scraper) recordUse(p point, r *gpu.Reading) {
	for i, u := range [...]gpu.Opt[float64]{r.Utilization, r.Encoder, r.Decoder} {
		if u.OK {
			task := [...]metadata.AttributeHwGpuTask{
				metadata.AttributeHwGpuTaskGeneral, metadata.AttributeHwGpuTaskEncoder, metadata.AttributeHwGpuTaskDecoder,
			}[i]
			s.mb.RecordHwGpuUtilizationDataPoint(p.at, u.V, task, p.id, p.name, kind, vendor)
		}
	}
	p.double(r.MemoryBusy, (*metadata.MetricsBuilder).RecordHwGpuMemoryBandwidthUtilizationDataPoint)
	s.recordMemory(p, r.MemoryUsed, r.MemoryTotal)
	if r.Received.OK {
		s.mb.RecordHwGpuIoDataPoint(p.at, int64(r.Received.V), p.id, p.name, kind, vendor, metadata.AttributeNetworkIoDirectionReceive)
	}
	if r.Transmitted.OK {
		s.mb.RecordHwGpuIoDataPoint(p.at, int64(r.Transmitted.V), p.id, p.name, kind, vendor, metadata.AttributeNetworkIoDirectionTransmit)
	}
	for i, name := range clockNames {
		if c := r.Clocks[i]; c.OK {
			s.mb.RecordNvidiaGpuClockFrequencyDataPoint(p.at, float64(c.V), p.id, p.name, kind, vendor, name)
		}
		if c := r.MaxClocks[i]; c.OK {
			s.mb.RecordNvidiaGpuClockLimitDataPoint(p.at, float64(c.V), p.id, p.name, kind, vendor, name)
		}
	}
	if r.PerformanceState.OK {
		s.mb.RecordNvidiaGpuPerformanceStateDataPoint(p.at, int64(r.PerformanceState.V), p.id, p.name, kind, vendor)
	}
	p.profile(r.Profile)
}

func (p point) profile(v gpu.Opt[gpu.Profile]) {
	if v.OK {
		p.double(v.V.SM, (*metadata.MetricsBuilder).RecordNvidiaGpuSmUtilizationDataPoint)
		p.double(v.V.Occupancy, (*metadata.MetricsBuilder).RecordNvidiaGpuSmOccupancyDataPoint)
		p.double(v.V.Tensor, (*metadata.MetricsBuilder).RecordNvidiaGpuTensorUtilizationDataPoint)
		p.double(v.V.DRAM, (*metadata.MetricsBuilder).RecordNvidiaGpuDramUtilizationDataPoint)
	}
}

func (s *Scraper) recordMemory(p point, used, total gpu.Opt[uint64]) {
	if used.OK {
		s.mb.RecordHwGpuMemoryUsageDataPoint(p.at, int64(used.V), p.id, p.name, kind, vendor)
	}
	if total.OK {
		s.mb.RecordHwGpuMemoryLimitDataPoint(p.at, int64(total.V), p.id, p.name, kind, vendor)
	}
	if used.OK && total.OK && total.V > 0 {
		s.mb.RecordHwGpuMemoryUtilizationDataPoint(p.at, float64(used.V)/float64(total.V), p.id, p.name, kind, vendor)
	}
}

func (s *Scraper) recordPower(p point, r *gpu.Reading) {
	p.double(r.Power, (*metadata.MetricsBuilder).RecordHwPowerDataPoint)
	p.double(r.PowerLimit, (*metadata.MetricsBuilder).RecordNvidiaGpuPowerLimitDataPoint)
	p.double(r.Energy, (*metadata.MetricsBuilder).RecordHwEnergyDataPoint)
	p.double(r.Fan, (*metadata.MetricsBuilder).RecordHwFanSpeedRatioDataPoint)
	if r.Temperature.OK {
		s.mb.RecordHwTemperatureDataPoint(p.at, r.Temperature.V, p.id, p.name, metadata.AttributeHwSensorLocationGpu, kind, vendor)
	}
	if r.MemoryTemperature.OK {
		s.mb.RecordHwTemperatureDataPoint(p.at, r.MemoryTemperature.V, p.id, p.name, metadata.AttributeHwSensorLocationMemory, kind, vendor)
	}
	for i, name := range limitNames {
		if l := r.Limits[i]; l.OK {
			s.mb.RecordHwTemperatureLimitDataPoint(p.at, l.V, p.id, name.limit, p.name, name.sensor, kind, vendor)
		}
	}
}

// meanPower is the mean since this scraper's scrape before, whoever reported the
// GPU then.
func (s *Scraper) meanPower(r *gpu.Reading) (mean gpu.Opt[float64]) {
	if !r.Energy.OK {
		delete(s.energy, r.ID)
		return mean
	}
	before, ok := s.energy[r.ID]
	s.energy[r.ID] = energy{r.Energy.V, r.At}
	if passed := r.At.Sub(before.at).Seconds(); ok && passed > 0 {
		mean.V, mean.OK = (r.Energy.V-before.joules)/passed, true
	}
	return mean
}

func (s *Scraper) recordThrottling(p point, r *gpu.Reading) {
	for i, name := range reasonNames {
		if now := r.Reasons[i]; now.OK {
			s.mb.RecordNvidiaGpuThrottleDataPoint(p.at, one(now.V), p.id, p.name, kind, vendor, name)
		}
		if t := r.Throttled[i]; t.OK {
			source := metadata.AttributeNvidiaGpuThrottleSourceDriver
			if t.V.Sampled {
				source = metadata.AttributeNvidiaGpuThrottleSourceSampled
			}
			s.mb.RecordNvidiaGpuThrottleTimeDataPoint(p.at, t.V.Seconds, p.id, p.name, kind, vendor, name, source)
		}
	}
}

// recordProcesses records the memory that each process holds.
func (s *Scraper) recordProcesses(readings []*gpu.Reading) {
	if !s.cfg.MetricsBuilderConfig.Metrics.NvidiaGpuProcessMemoryUsage.Enabled {
		return
	}
	names := map[int]string{}
	for _, r := range readings {
		at := pcommon.NewTimestampFromTime(r.At)
		for _, p := range r.Processes.V {
			id, gpuName := r.ID, r.Name
			if in := r.Instance(p.Instance); in.ID != "" {
				id, gpuName = in.ID, in.Name
			} else if !r.Report {
				continue
			}
			name, ok := s.programs[p.PID]
			if !ok {
				name = program(p.PID)
			}
			names[p.PID] = name
			if p.Memory.OK {
				s.mb.RecordNvidiaGpuProcessMemoryUsageDataPoint(at, int64(p.Memory.V), id, gpuName, kind, vendor, name, int64(p.PID))
			}
		}
	}
	s.programs = names // without those that have ended
}

// program is the file name of a process's program, "" where it may not be known.
func program(pid int) string {
	folder := "/proc/" + strconv.Itoa(pid)
	if path, err := os.Readlink(folder + "/exe"); err == nil {
		return strings.TrimSuffix(filepath.Base(path), " (deleted)")
	}
	name, err := os.ReadFile(folder + "/comm") // also of other users' processes
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// parents are the GPUs of MIG instances, by UUID.
func parents(readings ...*gpu.Reading) map[string]string {
	gpus := map[string]string{}
	for _, r := range readings {
		for _, in := range r.Instances {
			gpus[in.ID] = r.ID
		}
		for _, p := range r.Processes.V {
			if p.Instance != "" {
				gpus[p.Instance] = r.ID
			}
		}
	}
	return gpus
}

// setParents names the GPU of each MIG instance. It does so afterwards, as an
// attribute that most points do not have cannot be declared in metadata.yaml.
func setParents(md pmetric.Metrics, parents map[string]string) {
	if len(parents) == 0 {
		return
	}
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				points := pmetric.NewNumberDataPointSlice()
				switch m.Type() {
				case pmetric.MetricTypeSum:
					points = m.Sum().DataPoints()
				case pmetric.MetricTypeGauge:
					points = m.Gauge().DataPoints()
				}
				for _, p := range points.All() {
					if id, ok := p.Attributes().Get("hw.id"); ok {
						if parent, ok := parents[id.Str()]; ok {
							p.Attributes().PutStr("hw.parent", parent)
						}
					}
				}
			}
		}
	}
}
