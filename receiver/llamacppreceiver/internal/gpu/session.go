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
	// Library is the path of the driver's library; the system's by default.
	Library string
	// RetryMin and RetryMax are the shortest and the longest pause between two
	// attempts to reach the driver, or a GPU that is lost; 1s and 30s by default.
	RetryMin, RetryMax time.Duration
	// SlowEvery is how old a value may be that hardly ever changes: limits,
	// errors, the list of MIG instances; 10s by default.
	SlowEvery time.Duration
	// StuckAfter is how long a call may take before a warning; 5s by default, as
	// the first one takes seconds where the driver is not in persistence mode and
	// lets go of idle GPUs.
	StuckAfter time.Duration
	// EventWait is how long one wait for events may take, and so the end of the
	// session; 200ms by default.
	EventWait time.Duration
}

// sessions are the open ones, by library.
var sessions = struct {
	sync.Mutex
	open map[string]*session
	last map[string]<-chan struct{} // closed when the one begun last has ended
}{open: map[string]*session{}, last: map[string]<-chan struct{}{}}

// session is the process's one connection to the driver.
type session struct {
	options Options
	driver  driver
	log     sessionLog
	before  <-chan struct{} // closed when the session before has ended; nil for the first
	ended   chan struct{}
	life    context.Context
	end     context.CancelFunc
	wake    chan struct{}

	mu      sync.Mutex
	handles []*Handle        // in the order of reporting: see addReporter
	asked   chan struct{}    // closed when the round that was asked for is over; nil if none is
	devices []*device        // in the order of their indexes
	shown   map[string]shown // by UUID of GPU or MIG instance
	down    bool             // the driver does not open
	slow    slowCall         // under way when a receiver's patience ended
	stuck   bool             // as logged

	// Of the polling goroutine, which is also the only one to change the devices.
	connected bool
	trouble   string    // code of the condition that was logged
	skipped   string    // why a GPU cannot be opened, as logged
	retryAt   time.Time // of the driver or of lost GPUs; zero when all is well
	backoff   time.Duration
	events    chan struct{} // closed when the goroutine of the events has ended
	stop      chan struct{} // ends it
}

// slowCall is a call of the driver, first seen under way at a time.
type slowCall struct {
	call string
	seen time.Time
}

// begin begins the session of a library. The caller holds sessions.
func begin(d driver, o Options) *session {
	s := newSession(d, o)
	s.before = sessions.last[o.Library]
	sessions.open[o.Library], sessions.last[o.Library] = s, s.ended
	go s.poll()
	return s
}

func newSession(d driver, o Options) *session {
	s := &session{options: o, driver: d, shown: map[string]shown{}, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// join adds a receiver. The caller holds sessions.
func (s *session) join(h *Handle) {
	s.log.join(h.log)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addReporter(h)
}

// leave removes a receiver, and reports whether the session ends with it. The
// caller holds sessions.
func (s *session) leave(h *Handle) (last bool) {
	s.log.leave(h.log)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handles = slices.DeleteFunc(s.handles, func(other *Handle) bool { return other == h })
	if len(s.handles) > 0 {
		return false
	}
	delete(sessions.open, s.options.Library)
	s.end()
	return true
}

// ask asks for a round of readings. The channel is closed when one is over that
// has begun since. The caller holds s.mu.
func (s *session) ask() <-chan struct{} {
	if s.asked == nil {
		s.asked = make(chan struct{})
		s.wake <- struct{}{} // has room, as the poll empties it before it clears asked
	}
	return s.asked
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
		var want Want
		s.mu.Lock()
		over := s.asked
		s.asked = nil
		for _, h := range s.handles {
			want.Processes = want.Processes || h.want.Processes
			want.Profile = want.Profile || h.want.Profile
		}
		s.mu.Unlock()

		s.readAll(want)

		s.mu.Lock()
		s.slow = slowCall{}
		if s.stuck {
			s.stuck = false
			s.log.logger().Info("the NVIDIA driver answers again")
		}
		s.mu.Unlock()
		close(over)
	}
}

// logStuck logs once that a call does not return. The caller holds s.mu.
func (s *session) logStuck() {
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
	s.log.logger().Warn("the NVIDIA driver does not answer: GPUs that come after this call are not read until it does; "+
		"see the kernel's log for Xid errors", zap.String("call", call))
}

// readAll reads every GPU, and connects first where that is due.
func (s *session) readAll(want Want) {
	if s.due() {
		if err := s.connect(); err != nil {
			s.fail(err)
			return
		}
	}
	if !s.connected {
		return
	}
	complete := s.skipped == ""
	for _, d := range s.devices {
		if s.life.Err() != nil {
			return
		}
		if err := s.read(d, want); err != nil {
			s.fail(err)
			return
		}
		complete = complete && d.unit != nil
	}
	switch {
	case complete:
		s.retryAt, s.backoff = time.Time{}, 0
	case !time.Now().Before(s.retryAt):
		s.retryLater()
	}
}

// due reports whether it is time to connect, or to look for lost GPUs.
func (s *session) due() bool {
	return (!s.connected || !s.retryAt.IsZero()) && !time.Now().Before(s.retryAt)
}

// read reads one GPU. An error is that of the whole driver.
func (s *session) read(d *device, want Want) error {
	if d.unit == nil {
		s.mu.Lock()
		d.publishFailed()
		s.mu.Unlock()
		return nil
	}
	r, err := d.read(want, s.options.SlowEvery)
	var c *condition
	switch {
	case errors.As(err, &c) && c.whole:
		return err
	case err != nil:
		s.lose(d, err)
		return nil
	}
	s.mu.Lock()
	back := d.failed()
	d.publish(r)
	s.mu.Unlock()
	if back {
		s.log.logger().Info("a GPU is back", zap.String("gpu", d.ID), zap.Int("index", d.Index))
	}
	return nil
}

// lose publishes that a GPU is lost, and logs it once.
func (s *session) lose(d *device, err error) {
	s.mu.Lock()
	known := d.failed()
	d.publishFailed()
	s.mu.Unlock()
	if !known {
		s.log.logger().Warn("a GPU is lost: "+err.Error(), zap.String("gpu", d.ID), zap.Int("index", d.Index))
	}
}

// connect opens the driver, anew where it is open.
func (s *session) connect() error {
	s.disconnect()
	units, skipped, err := s.driver.open(&s.log)
	if err != nil {
		return err
	}
	s.connected = true
	if s.trouble != "" {
		s.trouble = ""
		s.log.logger().Info("the NVIDIA driver is there", zap.Int("gpus", len(units)))
	}
	s.mu.Lock()
	s.down = false
	for _, u := range units {
		s.device(u.identity().ID).open(u)
	}
	slices.SortFunc(s.devices, func(a, b *device) int { return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID)) })
	s.mu.Unlock()
	explained := false // by a GPU that is known
	for _, d := range s.devices {
		if d.unit == nil {
			explained = true
			s.lose(d, cmp.Or(skipped, errUnlisted))
		}
	}
	before := s.skipped
	s.skipped = ""
	if skipped != nil {
		s.skipped = skipped.Error()
		if !explained && s.skipped != before {
			s.log.logger().Warn("a GPU cannot be opened: " + s.skipped)
		}
	}
	s.listen()
	return nil
}

// device finds that of a UUID, or adds it. The caller holds s.mu.
func (s *session) device(id string) *device {
	for _, d := range s.devices {
		if d.ID == id {
			return d
		}
	}
	d := &device{xids: map[uint64]uint64{}}
	s.devices = append(s.devices, d)
	return d
}

func (s *session) disconnect() {
	if !s.connected {
		return
	}
	if s.events != nil {
		close(s.stop)
		<-s.events
		s.events = nil
	}
	s.driver.close()
	s.connected = false
	for _, d := range s.devices {
		d.unit = nil
	}
}

// fail ends the connection, to be tried again later, and logs why when that is
// news.
func (s *session) fail(err error) {
	s.disconnect()
	s.retryLater()
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
	code, level := err.Error(), zap.WarnLevel
	var c *condition
	if errors.As(err, &c) {
		code = c.code
		if c.absent {
			level = zap.InfoLevel
		}
	}
	if code != s.trouble {
		s.trouble = code
		s.log.logger().Log(level, "no GPU metrics: "+err.Error())
	}
}

// retryLater sets the time of the next attempt. Pauses double until everything
// could be read.
func (s *session) retryLater() {
	s.backoff = min(max(2*s.backoff, s.options.RetryMin), s.options.RetryMax)
	s.retryAt = time.Now().Add(s.backoff)
}

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
			id, n, more := s.driver.waitEvent(s.options.EventWait)
			if !more {
				return
			}
			if n > 0 {
				s.countXID(id, n)
			}
		}
	}(s.stop, s.events)
}

// countXID counts an error of a GPU, and logs the first of each number.
func (s *session) countXID(id string, n uint64) {
	s.mu.Lock()
	var count uint64
	for _, d := range s.devices {
		if d.ID == id {
			d.xids[n]++
			count = d.xids[n]
		}
	}
	s.mu.Unlock()
	if count == 1 {
		s.log.logger().Warn("a GPU reports an error: see NVIDIA's catalogue of Xid errors; further ones of this number are only counted",
			zap.String("gpu", id), zap.Uint64("xid", n))
	}
}
