// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Options are for Open; the zero value is what a receiver wants.
type Options struct {
	// Library is the driver's library; the system's by default.
	Library string
	// RetryMin and RetryMax are between two attempts to reach the driver, or a
	// GPU that is lost; 1s and 30s by default.
	RetryMin, RetryMax time.Duration
	// SlowEvery is how old a value may be that hardly ever changes: limits,
	// errors, the list of MIG instances; 10s by default.
	SlowEvery time.Duration
	// StuckAfter is how long a call may take before that is said; 5s by default, as
	// the first one takes seconds where the driver lets go of idle GPUs (without
	// persistence mode).
	StuckAfter time.Duration
}

// driver is the library.
type driver interface {
	// open connects and lists the GPUs. On an error nothing is left open.
	open(say *sayer) (units []unit, absent error, err error)
	// close ends what open began.
	close()
	// waitEvent waits for an error that a GPU reports; nothing came when n is 0.
	// False means that there is no use in asking again.
	waitEvent(timeout time.Duration) (id string, n uint64, more bool)
	// calling is the function that is being called, and on which GPU.
	calling() string
}

// unit is one GPU as the driver knows it.
type unit interface {
	identity() Identity
	// read fills the reading; slow asks for the values that hardly ever change
	// as well. An error means that the GPU, or the whole driver, is gone.
	read(r *raw, want Want, slow bool) error
}

// raw is a reading with the driver's own counters, which start anew with it.
type raw struct {
	Reading
	throttled    [reasons]Opt[uint64] // ns
	reasons      Opt[uint64]
	remapped     Opt[uint64]
	remapPending bool
	remapFailed  bool
}

// condition is why the driver, or a GPU, is not to be read.
type condition struct {
	// code tells one condition from another.
	code string
	text string
	// absent is the ordinary state of a machine without a GPU.
	absent bool
	// whole is of the driver and not of one GPU.
	whole bool
}

func (c *condition) Error() string { return c.text }

var errGone error = &condition{code: "gone", text: "it is not in the driver's list any more"}

// sayer logs to the receiver that has the session for longest.
type sayer struct {
	mu   sync.Mutex
	logs []*zap.Logger
	// failing are the calls that have been complained of, by GPU, which outlives a
	// connection: as long as a GPU is lost, the driver is opened again and again.
	failing map[failure]bool
}

type failure struct{ call, gpu string }

// complain logs a failure unless that has been done.
func (s *sayer) complain(f failure, message string) {
	s.mu.Lock()
	known := s.failing[f]
	if s.failing == nil {
		s.failing = map[failure]bool{}
	}
	s.failing[f] = true
	s.mu.Unlock()
	if !known {
		s.log().Warn(message, zap.String("call", f.call), zap.String("gpu", f.gpu))
	}
}

// relent logs that a call works, if a failure of it has been logged.
func (s *sayer) relent(f failure, message string) {
	s.mu.Lock()
	known := s.failing[f]
	delete(s.failing, f)
	s.mu.Unlock()
	if known {
		s.log().Info(message, zap.String("call", f.call), zap.String("gpu", f.gpu))
	}
}

func (s *sayer) add(log *zap.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs = append(s.logs, log)
}

func (s *sayer) remove(log *zap.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.logs, log); i >= 0 {
		s.logs = slices.Delete(s.logs, i, i+1)
	}
}

func (s *sayer) log() *zap.Logger {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.logs) == 0 {
		return zap.NewNop()
	}
	return s.logs[0]
}

// sessions are the open ones, by library.
var sessions = struct {
	sync.Mutex
	open map[string]*session
	last map[string]chan struct{} // closed when the session before has ended
}{open: map[string]*session{}, last: map[string]chan struct{}{}}

// session is the process's one connection to the driver.
type session struct {
	options Options
	driver  driver
	say     sayer
	before  <-chan struct{} // the session before has ended
	ended   chan struct{}
	life    context.Context
	end     context.CancelFunc
	wake    chan struct{}

	mu      sync.Mutex
	handles map[*Handle]struct{}
	looking []*Handle     // those that have looked: the dedicated ones, then the others, each in order of the first time
	round   chan struct{} // closed when a round that has been asked for is over
	asked   uint64        // rounds
	served  uint64
	known   map[string]*device // by UUID
	slow    slowCall           // under way when a receiver's patience ended
	stuck   bool               // has been said

	// Of the polling goroutine.
	up      bool
	why     string    // code of the condition that has been said
	absent  string    // why a GPU cannot be opened, where that has been said
	retryAt time.Time // of the driver, or of lost GPUs
	backoff time.Duration
	events  chan struct{} // closed when the goroutine of the events has ended
	stop    chan struct{} // ends it
}

// slowCall is a call of the driver, first seen under way at a time.
type slowCall struct {
	call string
	seen time.Time
}

// device is what is remembered of a GPU for as long as the session lasts.
type device struct {
	Identity
	unit     unit // nil while lost
	reopened bool // not read since
	since    time.Time
	state    State
	reading  *Reading  // the last one
	reported time.Time // the last one that a receiver reported
	reports  uint64    // what it made of it
	slowRead time.Time
	slow     raw // the last values that hardly ever change

	energy, received, transmitted    counter
	corrected, uncorrected, remapped counter
	throttled                        [reasons]counter
	sampled                          [reasons]float64 // seconds
	xids                             map[uint64]uint64
}

// counter goes on where the driver's begins anew.
type counter struct {
	base, last uint64
	seen       bool
}

func (c *counter) take(v uint64) uint64 {
	return c.takeOf(v, 64, false)
}

// takeOf is take of a counter that goes back to zero after so many bits, unless
// it is known that it began anew.
func (c *counter) takeOf(v uint64, bits int, anew bool) uint64 {
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

// pcieBits is how wide the driver's counters of PCIe are: nvml.h only says that
// they wrap, and its kernel interface (NV2080_CTRL_BUS_GET_PEX_UTIL_COUNTERS) has
// 32 bits. One that is found above that does not wrap here.
const pcieBits = 32

// Handle is one receiver's share of the session.
type Handle struct {
	s    *session
	want Want
	log  *zap.Logger
	once sync.Once
	left chan struct{} // closed by Close
	// given are the times of the readings that it has, by UUID.
	given  map[string]time.Time
	looked bool
}

// Open joins the process's session with the driver, or begins it. It does not
// wait for the driver, and finds one that appears later.
func Open(log *zap.Logger, want Want, o Options) *Handle {
	o.RetryMin = cmp.Or(o.RetryMin, time.Second)
	o.RetryMax = cmp.Or(o.RetryMax, 30*time.Second)
	o.SlowEvery = cmp.Or(o.SlowEvery, 10*time.Second)
	o.StuckAfter = cmp.Or(o.StuckAfter, 5*time.Second)
	sessions.Lock()
	defer sessions.Unlock()
	s := sessions.open[o.Library]
	if s == nil {
		s = newSession(newDriver(o.Library), o)
		s.before = sessions.last[o.Library]
		sessions.last[o.Library] = s.ended
		sessions.open[o.Library] = s
		go s.poll()
	}
	h := &Handle{s: s, want: want, log: log, left: make(chan struct{}), given: map[string]time.Time{}}
	s.say.add(log)
	s.mu.Lock()
	s.handles[h] = struct{}{}
	s.mu.Unlock()
	return h
}

func newSession(d driver, o Options) *session {
	s := &session{
		options: o, driver: d, ended: make(chan struct{}), wake: make(chan struct{}, 1),
		handles: map[*Handle]struct{}{}, round: make(chan struct{}), known: map[string]*device{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// closePatience is how long Close waits for a call that does not return, which
// nothing can end.
const closePatience = 2 * time.Second

// Close leaves the session and ends Look; the last one ends the session.
func (h *Handle) Close() {
	h.once.Do(func() {
		s := h.s
		close(h.left)
		sessions.Lock()
		s.say.remove(h.log)
		s.mu.Lock()
		delete(s.handles, h)
		s.looking = slices.DeleteFunc(s.looking, func(other *Handle) bool { return other == h })
		left := len(s.handles)
		s.mu.Unlock()
		if left == 0 {
			delete(sessions.open, s.options.Library)
			s.end()
		}
		sessions.Unlock()
		if left > 0 {
			return
		}
		timer := time.NewTimer(closePatience)
		defer timer.Stop()
		select {
		case <-s.ended:
		case <-timer.C:
		}
	})
}

// Look reads the GPUs, or takes what another receiver has read no longer than
// fresh ago. No reading comes twice. It returns within patience: a GPU that has
// not answered until then is left out.
func (h *Handle) Look(ctx context.Context, fresh, patience time.Duration) Look {
	s := h.s
	since := time.Now().Add(-fresh)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	s.mu.Lock()
	select {
	case <-h.left: // it is no candidate for reporting any more
		s.mu.Unlock()
		return Look{}
	default:
	}
	if !h.looked {
		h.looked = true
		at := slices.IndexFunc(s.looking, func(other *Handle) bool { return h.want.Dedicated && !other.want.Dedicated })
		if at < 0 {
			at = len(s.looking)
		}
		s.looking = slices.Insert(s.looking, at, h)
	}
	if h.all(since) {
		defer s.mu.Unlock()
		return h.collect(since)
	}
	s.asked++
	mine := s.asked
	for s.served < mine {
		done := s.round
		s.mu.Unlock()
		select {
		case s.wake <- struct{}{}:
		default:
		}
		select {
		case <-done:
		case <-timer.C:
			s.mu.Lock()
			s.sayStuck()
			l := h.collect(since)
			s.mu.Unlock()
			return l
		case <-ctx.Done():
			return Look{}
		case <-h.left:
			return Look{}
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	return h.collect(since)
}

// isNew tells whether a device has a reading since a time that this receiver
// does not have yet.
func (h *Handle) isNew(d *device, since time.Time) bool {
	return d.reading != nil && !d.reading.At.Before(since) && d.reading.At.After(h.given[d.ID])
}

// all tells whether each GPU has such a reading.
func (h *Handle) all(since time.Time) bool {
	for _, d := range h.s.known {
		if !h.isNew(d, since) {
			return false
		}
	}
	return len(h.s.known) > 0
}

// collect takes those readings, with what is wanted of them.
func (h *Handle) collect(since time.Time) Look {
	var l Look
	wanted := selection(h.want.Devices)
	for _, d := range h.s.known {
		if !h.isNew(d, since) {
			continue
		}
		h.given[d.ID] = d.reading.At
		r := *d.reading
		whole := wanted.gpu(r.Identity)
		var by *Handle
		if whole {
			by = h.insteadOf(func(ss selection) bool { return ss.gpu(r.Identity) })
			r.Report = by == nil && !d.reportedFor(h)
		}
		r.Instances = nil
		seen := whole
		for _, in := range d.reading.Instances {
			if !wanted.instance(r.Identity, in.Identity) {
				continue
			}
			seen = true
			other := h.insteadOf(func(ss selection) bool { return ss.instance(r.Identity, in.Identity) })
			if other == nil && (r.Report || !whole) {
				r.Instances = append(r.Instances, in)
			}
			by = cmp.Or(by, other)
		}
		if !seen {
			continue
		}
		if !whole && r.Processes.OK {
			r.Processes.V = slices.DeleteFunc(slices.Clone(r.Processes.V), func(p Process) bool {
				return !wanted.instance(r.Identity, d.reading.Instance(p.Instance))
			})
		}
		l.Readings = append(l.Readings, &r)
		if by != nil {
			l.By = by.want.Name
		}
	}
	slices.SortFunc(l.Readings, func(a, b *Reading) int { return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID)) })
	l.Missing = h.missing()
	return l
}

// reportedFor tells whether another receiver has reported the last reading, which
// is so when a receiver takes over from it. Else this one does.
func (d *device) reportedFor(h *Handle) bool {
	if h.want.Always {
		return false
	}
	if d.reported.Equal(d.reading.At) && h.want.Reports&^d.reports == 0 {
		return true
	}
	d.reported, d.reports = d.reading.At, h.want.Reports
	return false
}

// insteadOf is the receiver that reports what both have chosen instead of this
// one; nil if there is none. There is always one that nobody replaces, as `over`
// and the order of looking, where neither is over the other alone, are an order.
func (h *Handle) insteadOf(chosen func(selection) bool) *Handle {
	before := true
	for _, other := range h.s.looking {
		if other == h {
			before = false
			continue
		}
		if other.want.over(&h.want) && (before || !h.want.over(&other.want)) && chosen(other.want.Devices) {
			return other
		}
	}
	return nil
}

// missing are the wanted devices that are not there. While a GPU does not answer,
// nobody knows what it has.
func (h *Handle) missing() []Selector {
	for _, d := range h.s.known {
		if d.reading == nil || d.reading.State == Failed {
			return nil
		}
	}
	if len(h.s.known) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(h.want.Devices), func(w Selector) bool {
		for _, d := range h.s.known {
			if w.isGPU(d.Identity) || slices.ContainsFunc(d.reading.Instances, func(in Instance) bool { return w.isInstance(d.Identity, in.Identity) }) {
				return true
			}
		}
		return false
	})
}

// sayStuck says once that a call does not return.
func (s *session) sayStuck() {
	if s.stuck {
		return
	}
	call := s.driver.calling()
	if call == "" {
		return // it is only slow, with many GPUs
	}
	if call != s.slow.call {
		s.slow = slowCall{call, time.Now()}
	}
	if time.Since(s.slow.seen) < s.options.StuckAfter {
		return
	}
	s.stuck = true
	s.say.log().Warn("the NVIDIA driver does not answer: GPUs that come after this call are not read until it does; "+
		"see the kernel's log for Xid errors", zap.String("call", call))
}

// poll owns the driver: it alone calls it, but for the wait for events.
func (s *session) poll() {
	defer close(s.ended)
	if s.before != nil {
		<-s.before
	}
	defer s.disconnect()
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.wake:
		}
		s.mu.Lock()
		asked := s.asked
		var want Want
		for h := range s.handles {
			want.Processes = want.Processes || h.want.Processes
			want.Profile = want.Profile || h.want.Profile
		}
		s.mu.Unlock()

		s.lookAtAll(want)

		s.mu.Lock()
		s.served, s.slow = asked, slowCall{}
		if s.stuck {
			s.stuck = false
			s.say.log().Info("the NVIDIA driver answers again")
		}
		close(s.round)
		s.round = make(chan struct{})
		s.mu.Unlock()
	}
}

func (s *session) lookAtAll(want Want) {
	if s.due() {
		s.connect()
	}
	if !s.up {
		return
	}
	for _, d := range s.devices() {
		if s.life.Err() != nil {
			return
		}
		if err := s.lookAt(d, want); err != nil {
			s.fail(err)
			return
		}
	}
}

// due tells whether it is time to connect, or to look for a lost GPU.
func (s *session) due() bool {
	if time.Now().Before(s.retryAt) {
		return false
	}
	if !s.up {
		return true
	}
	if s.absent != "" {
		return true
	}
	for _, d := range s.devices() {
		if d.unit == nil {
			return true
		}
	}
	return false
}

// devices are all that are known, in order. Only the polling goroutine changes
// the map.
func (s *session) devices() []*device {
	ds := make([]*device, 0, len(s.known))
	for _, d := range s.known {
		ds = append(ds, d)
	}
	slices.SortFunc(ds, func(a, b *device) int { return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID)) })
	return ds
}

// later sets the time of the next attempt.
func (s *session) later() {
	s.backoff = min(max(2*s.backoff, s.options.RetryMin), s.options.RetryMax)
	s.retryAt = time.Now().Add(s.backoff)
}

// connect opens the driver, anew where it is open.
func (s *session) connect() {
	s.disconnect()
	units, absent, err := s.driver.open(&s.say)
	if err != nil {
		s.fail(err)
		return
	}
	s.up = true
	if s.why != "" {
		s.why = ""
		s.say.log().Info("the NVIDIA driver is there", zap.Int("gpus", len(units)))
	}
	s.mu.Lock()
	for _, u := range units {
		id := u.identity()
		d := s.known[id.ID]
		if d == nil {
			d = &device{xids: map[uint64]uint64{}}
			s.known[id.ID] = d
		}
		d.Identity, d.unit, d.slowRead, d.reopened = id, u, time.Time{}, true
	}
	s.mu.Unlock()
	explained := false
	for _, d := range s.devices() {
		if d.unit == nil {
			explained = true
			s.lost(d, cmp.Or(absent, errGone))
		}
	}
	switch {
	case absent == nil:
		s.absent = ""
	case !explained && s.absent != absent.Error():
		s.absent = absent.Error()
		s.say.log().Warn("a GPU cannot be opened: " + absent.Error())
	}
	if explained || absent != nil {
		s.later()
	} else {
		s.backoff = 0
	}
	s.listen()
}

func (s *session) disconnect() {
	if !s.up {
		return
	}
	if s.events != nil {
		close(s.stop)
		<-s.events
		s.events = nil
	}
	s.driver.close()
	s.up = false
	for _, d := range s.known {
		d.unit = nil
	}
}

// eventWait is how long one wait for events may take, and so the end of the
// session.
const eventWait = 200 * time.Millisecond

// listen counts the errors that GPUs report until the connection ends.
func (s *session) listen() {
	s.events, s.stop = make(chan struct{}), make(chan struct{})
	go func(stop <-chan struct{}, ended chan<- struct{}) {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			id, n, more := s.driver.waitEvent(eventWait)
			if !more {
				return
			}
			if n == 0 {
				continue
			}
			s.mu.Lock()
			d := s.known[id]
			if d != nil {
				d.xids[n]++
			}
			first := d != nil && d.xids[n] == 1
			s.mu.Unlock()
			if first {
				s.say.log().Warn("a GPU reports an error: see NVIDIA's catalogue of Xid errors; further ones of this number are only counted",
					zap.String("gpu", id), zap.Uint64("xid", n))
			}
		}
	}(s.stop, s.events)
}

// fail ends the connection, to be tried again later.
func (s *session) fail(err error) {
	s.disconnect()
	s.later()
	code := err.Error()
	var c *condition
	absent := false
	if errors.As(err, &c) {
		code, absent = c.code, c.absent
	}
	if code == s.why {
		return
	}
	s.why = code
	if absent {
		s.say.log().Info("no GPU metrics: " + err.Error())
		return
	}
	s.say.log().Warn("no GPU metrics: " + err.Error())
}

// lost remembers that a GPU is, and says it once.
func (s *session) lost(d *device, why error) {
	s.mu.Lock()
	news := d.state != Failed
	d.state, d.unit = Failed, nil
	now := time.Now()
	if d.since.IsZero() {
		d.since = now
	}
	d.reading = &Reading{Identity: d.Identity, At: now, Since: d.since, State: Failed, XIDs: d.errors()}
	s.mu.Unlock()
	if news {
		s.say.log().Warn("a GPU is lost: "+why.Error(), zap.String("gpu", d.ID), zap.Int("index", d.Index))
		if s.backoff == 0 {
			s.later()
		}
	}
}

// lookAt reads one GPU. An error is of the whole driver.
func (s *session) lookAt(d *device, want Want) error {
	if d.unit == nil {
		s.lost(d, nil)
		return nil
	}
	now := time.Now()
	slow := now.Sub(d.slowRead) >= s.options.SlowEvery
	r := &raw{}
	if !slow {
		r.keepSlow(&d.slow)
	}
	r.Identity = d.Identity
	err := d.unit.read(r, want, slow)
	r.At = time.Now()
	var c *condition
	if errors.As(err, &c) {
		if c.whole {
			return err
		}
		s.lost(d, err)
		return nil
	}
	if slow {
		d.slowRead = now
		d.slow.keepSlow(r)
	}
	s.mu.Lock()
	back := d.state == Failed
	d.takeIn(r)
	s.mu.Unlock()
	if back {
		s.say.log().Info("a GPU is back", zap.String("gpu", d.ID), zap.Int("index", d.Index))
	}
	return nil
}

// keepSlow takes over the values that hardly ever change.
func (r *raw) keepSlow(from *raw) {
	r.MemoryTotal, r.PowerLimit = from.MemoryTotal, from.PowerLimit
	r.Limits, r.MaxClocks = from.Limits, from.MaxClocks
	r.Corrected, r.Uncorrected = from.Corrected, from.Uncorrected
	r.remapped, r.remapPending, r.remapFailed = from.remapped, from.remapPending, from.remapFailed
}

// sampleGap is how far two readings may be apart for what both found to have
// been so in between.
const sampleGap = time.Minute

// takeIn makes the reading from what the driver said.
func (d *device) takeIn(r *raw) {
	if d.since.IsZero() {
		d.since = r.At
	}
	r.Since = d.since
	// The driver is held loaded by a connection; whether it was loaded anew before
	// this one is seen by its count of energy, which does not wrap.
	anew := d.reopened
	d.reopened = false
	if r.Energy.OK {
		if d.energy.seen {
			anew = uint64(r.Energy.V) < d.energy.last
		}
		r.Energy.V = float64(d.energy.take(uint64(r.Energy.V))) / 1000
	}
	if r.Received.OK {
		r.Received.V = d.received.takeOf(r.Received.V, pcieBits, anew)
	}
	if r.Transmitted.OK {
		r.Transmitted.V = d.transmitted.takeOf(r.Transmitted.V, pcieBits, anew)
	}
	r.Corrected = d.corrected.of(r.Corrected)
	r.Uncorrected = d.uncorrected.of(r.Uncorrected)
	r.RemappedRows = d.remapped.of(r.remapped)
	for i := range reasons {
		now := r.reasons.V&bits[i] != 0
		if r.reasons.OK {
			r.Reasons[i] = some(now)
		}
		if now && d.reading != nil && d.reading.Reasons[i].OK {
			if gap := r.At.Sub(d.reading.At); gap <= sampleGap {
				d.sampled[i] += gap.Seconds()
			}
		}
		switch t := d.throttled[i].of(r.throttled[i]); {
		case t.OK:
			r.Throttled[i] = some(Throttled{Seconds: float64(t.V) / 1e9})
		case r.reasons.OK && !d.throttled[i].seen:
			r.Throttled[i] = some(Throttled{Seconds: d.sampled[i], Sampled: true})
		}
	}
	switch {
	case r.remapFailed:
		r.State = PredictedFailure
	case r.remapPending:
		r.State = Degraded
	default:
		r.State = OK
	}
	r.XIDs = d.errors()
	d.state = r.State
	d.reading = &r.Reading
}

func (c *counter) of(v Opt[uint64]) Opt[uint64] {
	if !v.OK {
		return v
	}
	return some(c.take(v.V))
}

func (d *device) errors() []XID {
	if len(d.xids) == 0 {
		return nil
	}
	xs := make([]XID, 0, len(d.xids))
	for n, count := range d.xids {
		xs = append(xs, XID{n, count})
	}
	slices.SortFunc(xs, func(a, b XID) int { return cmp.Compare(a.Number, b.Number) })
	return xs
}
