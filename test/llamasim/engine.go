// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Load is an endless load made inside the simulator, without HTTP clients: it
// keeps a fleet of servers busy at almost no cost.
type Load struct {
	// Concurrency is the number of clients; each has one request at a time.
	Concurrency int
	// PromptTokens and MaxTokens are the sizes of every request (default 64 and 128).
	PromptTokens, MaxTokens int
	// ThinkTime passes between an answer and the same client's next request.
	ThinkTime time.Duration
}

// engine is the decode loop of one llama-server process.
//
// It has no goroutine: advance brings it up to the present whenever somebody
// looks. As in llama-server, time goes in steps. A step decodes one token for
// each generating slot and up to BatchTokens prompt tokens; what arrives while
// it runs is seen when it ends. Times are nanoseconds since the engine's start.
type engine struct {
	o     *Options
	start time.Time
	token int64  // Process-Start-Time-Unix
	media string // media_marker

	mu       sync.Mutex
	killed   bool
	dead     chan struct{} // closed at the end of the process's life
	changed  chan struct{} // closed and replaced when a wait may end early
	t        int64         // the present, or the start of the running step
	stepping bool
	stepEnd  int64
	stepGen  int // generating slots in the running step
	nextID   int64
	slots    []slot
	incoming []*task // posted while a step was running
	deferred []*task
	arrivals []arrival // of the internal load, by time

	readyAt    int64 // a waking engine decodes from here on
	asleep     bool
	lastActive int64

	c       counters
	decoded int64 // tokens, including those of requests under way
	done    struct{ started, finished, cancelled int64 }
}

// counters are what /metrics shows.
type counters struct {
	prompt, cached, predicted    int64
	promptNs, predictedNs        int64
	decodes, busySum, tokensMax  int64
	bucketPrompt, bucketPromptNs int64 // since the previous GET
	bucketGen, bucketGenNs       int64
}

type slot struct {
	task     *task // nil when released
	last     *task // the latest request, kept after its release
	tokens   []int32
	length   int // tokens in the cache after release
	hasNext  bool
	lastUsed int64
	taken    int // prompt tokens in the running step
}

type arrival struct {
	at   int64
	load Load
}

type task struct {
	id       int64
	prompt   []int32
	nPrompt  int
	nPredict int // -1: until the context is full
	params   params
	text     string // shown only with SlotsDebug
	load     *Load

	slot               int
	cached             int
	processed          int // prompt tokens decoded, without cached ones
	decoded            int
	launched, finished bool
	cancel             bool
	cancelled          bool
	truncated          bool
	err                error
	startT, firstT     int64
	endT               int64
}

// errContext says that a prompt does not fit; llama-server finds this out when
// the request gets its slot.
type errContext struct{ tokens, context int }

func (e errContext) Error() string {
	return fmt.Sprintf("request (%d tokens) exceeds the available context size (%d tokens), try increasing it", e.tokens, e.context)
}

func newEngine(o *Options, start time.Time, token int64, media string) *engine {
	e := &engine{
		o: o, start: start, token: token, media: media,
		dead: make(chan struct{}), changed: make(chan struct{}),
		slots:      make([]slot, o.Slots),
		lastActive: int64(o.LoadTime),
	}
	for i := range e.slots {
		e.slots[i] = slot{hasNext: true, lastUsed: -1}
	}
	return e
}

func (e *engine) now() int64 { return int64(e.o.Now().Sub(e.start)) }

func (e *engine) stepTime() int64 { return int64(float64(time.Second) / e.o.TokensPerSecond) }

func (e *engine) loading() bool { return e.now() < int64(e.o.LoadTime) }

// advance decodes everything that is due. It needs the lock.
func (e *engine) advance() {
	if e.killed {
		return
	}
	now := e.now()
	for {
		if e.stepping {
			if e.stepEnd > now {
				return
			}
			e.finishSteps(now)
			continue
		}
		if e.readyAt > e.t {
			if e.readyAt > now {
				return
			}
			e.t, e.asleep, e.lastActive = e.readyAt, false, e.readyAt
		}
		e.admit()
		if e.plan() {
			continue
		}
		next := int64(math.MaxInt64)
		if len(e.arrivals) > 0 {
			next = e.arrivals[0].at
		}
		until := min(now, next)
		if s := int64(e.o.SleepAfter); s > 0 && !e.asleep && until-e.lastActive >= s {
			e.fallAsleep()
		}
		e.t = max(e.t, until)
		if next > now {
			return
		}
		e.wake()
	}
}

func (e *engine) fallAsleep() {
	e.asleep = true
	for i := range e.slots {
		e.slots[i] = slot{hasNext: true, lastUsed: -1}
	}
}

// wake starts the reload of a sleeping engine.
func (e *engine) wake() {
	if e.asleep && e.readyAt <= e.t {
		e.readyAt = e.t + int64(e.o.WakeTime)
	}
}

// admit gives slots to what has arrived.
func (e *engine) admit() {
	for i := range e.slots {
		if s := &e.slots[i]; s.task != nil && s.task.cancel && s.task.decoded > 0 {
			e.release(i, true)
		}
	}
	n := 0
	for ; n < len(e.arrivals) && e.arrivals[n].at <= e.t; n++ {
		l := e.arrivals[n].load
		e.incoming = append(e.incoming, &task{id: e.takeID(), nPrompt: l.PromptTokens, nPredict: l.MaxTokens, load: &l, params: params{maxTokens: l.MaxTokens, chat: true, stream: true}})
		e.done.started++
	}
	e.arrivals = e.arrivals[n:]
	e.deferred = append(e.deferred, e.incoming...)
	e.incoming = nil
	for len(e.deferred) > 0 && e.launch(e.deferred[0]) {
		e.deferred = e.deferred[1:]
	}
}

func (e *engine) takeID() int64 {
	id := e.nextID
	e.nextID++
	return id
}

// launch gives t the free slot whose cache is most like its prompt (more than
// a tenth), else the least recently used one.
func (e *engine) launch(t *task) bool {
	best, bestCommon, lru := -1, 0, -1
	for i := range e.slots {
		s := &e.slots[i]
		if s.task != nil {
			continue
		}
		if n := common(s.tokens, t.prompt); n > bestCommon && float64(n) > 0.1*float64(t.nPrompt) {
			best, bestCommon = i, n
		}
		if lru < 0 || s.lastUsed < e.slots[lru].lastUsed {
			lru = i
		}
	}
	if best < 0 {
		best = lru
	}
	if best < 0 {
		return false
	}
	s := &e.slots[best]
	if t.nPrompt >= e.o.ContextPerSlot {
		s.last, s.lastUsed = t, e.t
		e.end(t, errContext{t.nPrompt, e.o.ContextPerSlot})
		return true
	}
	t.slot, t.launched, t.startT = best, true, e.t
	// At least one token has to be decoded to get the first new one.
	t.cached = min(common(s.tokens, t.prompt), t.nPrompt-1)
	s.task, s.last, s.tokens = t, t, t.prompt
	return true
}

func common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// plan starts a step and reports whether there is anything to decode.
func (e *engine) plan() bool {
	e.stepGen = 0
	for i := range e.slots {
		s := &e.slots[i]
		s.taken = 0
		if s.task != nil && s.task.decoded > 0 {
			e.stepGen++
		}
	}
	room := e.o.BatchTokens - e.stepGen
	tokens := 0
	for i := range e.slots {
		if s := &e.slots[i]; s.task != nil && s.task.decoded == 0 {
			s.taken = min(room, s.task.nPrompt-s.task.cached-s.task.processed)
			room -= s.taken
			tokens += s.taken
		}
	}
	if e.stepGen == 0 && tokens == 0 {
		return false
	}
	d := int64(float64(tokens) / e.o.PromptTokensPerSecond * float64(time.Second))
	if e.stepGen > 0 {
		d += e.stepTime()
	}
	e.stepping, e.stepEnd = true, e.t+max(d, 1)
	return true
}

// finishSteps ends the running step and, where nothing but generation can
// happen, as many equal ones after it as are over by now.
func (e *engine) finishSteps(now int64) {
	k := int64(1)
	if busy := e.busy(); busy == e.stepGen && len(e.incoming) == 0 {
		dt := e.stepTime()
		k = 1 + (now-e.stepEnd)/dt
		for i := range e.slots {
			if t := e.slots[i].task; t != nil {
				if t.cancel {
					k = 1
				}
				k = min(k, int64(e.limit(t)-t.decoded))
			}
		}
		if len(e.arrivals) > 0 {
			until := max(0, e.arrivals[0].at-e.stepEnd)
			k = min(k, 1+(until+dt-1)/dt)
		}
		k = max(k, 1)
		e.stepEnd += (k - 1) * dt
	}
	e.t, e.stepping = e.stepEnd, false
	e.nextID += k
	e.c.decodes += k
	for i := range e.slots {
		s := &e.slots[i]
		t := s.task
		if t == nil {
			continue
		}
		switch {
		case t.decoded > 0:
			t.decoded += int(k)
			e.decoded += k
			e.c.busySum += k
		case s.taken > 0:
			t.processed += s.taken
			e.c.busySum++
			if t.cached+t.processed == t.nPrompt {
				e.promptDone(t)
			}
		default:
			continue
		}
		e.c.tokensMax = max(e.c.tokensMax, int64(t.cached+t.processed+max(0, t.decoded-1)))
		if t.decoded > 0 && t.decoded >= e.limit(t) {
			t.truncated = t.nPrompt+t.decoded >= e.o.ContextPerSlot && (t.nPredict < 0 || t.decoded < t.nPredict)
			e.release(i, false)
		}
	}
}

func (e *engine) promptDone(t *task) {
	t.decoded, t.firstT = 1, e.t
	e.decoded++
	n, ns := int64(t.processed), e.t-t.startT
	e.c.prompt += n
	e.c.cached += int64(t.cached)
	e.c.promptNs += ns
	e.c.bucketPrompt += n
	e.c.bucketPromptNs += ns
}

// limit is the number of tokens after which t ends. llama-server makes one
// even when asked for none.
func (e *engine) limit(t *task) int {
	room := max(1, e.o.ContextPerSlot-t.nPrompt)
	if t.nPredict < 0 {
		return room
	}
	return min(room, max(1, t.nPredict))
}

func (e *engine) release(i int, cancelled bool) {
	s := &e.slots[i]
	t := s.task
	s.task, s.lastUsed, s.hasNext = nil, e.t, cancelled
	s.length = t.nPrompt + t.decoded - 1
	t.cancelled = cancelled
	if cancelled {
		e.done.cancelled++
	} else {
		e.done.finished++
	}
	n, ns := int64(t.decoded), e.t-t.firstT
	e.c.predicted += n
	e.c.predictedNs += max(ns, 1000)
	e.c.bucketGen += n - 1
	e.c.bucketGenNs += ns
	e.end(t, nil)
}

func (e *engine) end(t *task, err error) {
	t.finished, t.err, t.endT = true, err, e.t
	e.lastActive = e.t
	if t.load != nil {
		pause := t.load.ThinkTime
		if err != nil {
			pause = max(pause, time.Second) // a refusal takes no time
		}
		e.arrive(arrival{at: e.t + int64(pause), load: *t.load})
	}
	e.notify()
}

func (e *engine) arrive(a arrival) {
	i := len(e.arrivals)
	e.arrivals = append(e.arrivals, a)
	for ; i > 0 && e.arrivals[i-1].at > a.at; i-- {
		e.arrivals[i] = e.arrivals[i-1]
	}
	e.arrivals[i] = a
}

// notify ends waits that were too pessimistic.
func (e *engine) notify() {
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *engine) busy() int {
	n := 0
	for i := range e.slots {
		if e.slots[i].task != nil {
			n++
		}
	}
	return n
}

// post hands a request to the engine.
func (e *engine) post(t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.advance()
	t.id = e.takeID()
	e.done.started++
	e.wake()
	e.incoming = append(e.incoming, t)
	e.advance()
}

// leave cancels a request whose client was found to be gone. The token being
// decoded still counts.
func (e *engine) leave(t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t.cancel = true
	e.advance()
}

// progress is a snapshot of a task.
type progress struct {
	task
	promptNs, genNs int64
}

// wait returns when t has more than n tokens or has ended, and false when the
// process died first.
func (e *engine) wait(t *task, n int) (progress, bool) {
	for {
		e.mu.Lock()
		e.advance()
		if t.finished || t.decoded > n {
			p := progress{task: *t}
			if t.decoded > 0 {
				p.promptNs = t.firstT - t.startT
				p.genNs = e.t - t.firstT
			}
			if t.finished {
				p.genNs = t.endT - t.firstT
			}
			e.mu.Unlock()
			return p, true
		}
		d, changed := e.earliest(t, n)-e.now(), e.changed
		e.mu.Unlock()
		if !e.sleep(time.Duration(d), changed) {
			return progress{}, false
		}
	}
}

// earliest is a time before which t cannot have more than n tokens.
func (e *engine) earliest(t *task, n int) int64 {
	if !e.stepping {
		return max(e.readyAt, e.t)
	}
	n = min(n, e.limit(t)-1)
	return e.stepEnd + int64(max(0, n-t.decoded))*e.stepTime()
}

// sleep waits for d, or for the channel, and reports whether the process is
// still alive. With a clock of the test's own it looks again every millisecond.
func (e *engine) sleep(d time.Duration, changed <-chan struct{}) bool {
	if e.o.ownClock {
		d = time.Millisecond
	}
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-changed:
		return true
	case <-e.dead:
		return false
	}
}

// active wakes a sleeping engine, waits until it is awake and counts as
// activity, as every request that goes through llama-server's task queue does.
// With BlockDuringDecode it also waits for the running step.
func (e *engine) active(keepsAwake bool) bool {
	e.mu.Lock()
	e.advance()
	if e.asleep {
		e.wake()
	}
	if keepsAwake {
		e.lastActive = max(e.lastActive, e.t)
	}
	until := e.readyAt
	if e.o.BlockDuringDecode && e.stepping {
		until = e.stepEnd
	}
	for {
		now := e.now()
		if now >= until {
			e.advance()
			e.mu.Unlock()
			return true
		}
		changed := e.changed
		e.mu.Unlock()
		if !e.sleep(time.Duration(until-now), changed) {
			return false
		}
		e.mu.Lock()
	}
}

// kill ends the process and returns how many tokens it generated. A second call
// does nothing and returns 0.
func (e *engine) kill() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.killed {
		return 0
	}
	e.advance()
	e.killed = true
	close(e.dead)
	return e.decoded
}

func (e *engine) addLoad(l Load) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.advance()
	for i := range l.Concurrency {
		// Spread over a step's time, so that the slots are not in lockstep.
		e.arrive(arrival{at: max(e.t, int64(e.o.LoadTime)) + int64(i), load: l})
	}
	e.advance()
}
