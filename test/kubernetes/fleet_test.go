// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"encoding/csv"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The recording: a server that can answer one request a second gets between 0.4 and
// 3.6, in bursts, up and down in three minutes, for a quarter of an hour. It was
// made with these two at the same time:
//
//	go run ./test/cmd/record-queue -duration 38m >test/kubernetes/testdata/load.csv
//	bin/llamaload run --url http://127.0.0.1:8080 --sine 2:1.6:3m --duration 16m --gaps gamma --burstiness 0.3 --seed 1 \
//	  --prompt-tokens 64 --max-tokens 100 --ignore-eos --max-in-flight 5000 --timeout 0 --drain 30m
const recording = "testdata/load.csv"

// recorded is what one server got, had in its slots and let wait by a second.
type recorded struct{ second, requests, processing, deferred int }

func loadRecording(t *testing.T) []recorded {
	t.Helper()
	f, err := os.Open(recording)
	require.NoError(t, err)
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"second", "requests", "processing", "deferred"}, rows[0])
	var all []recorded
	for _, row := range rows[1:] {
		var n [4]int
		for i, text := range row {
			n[i], err = strconv.Atoi(text)
			require.NoError(t, err)
		}
		all = append(all, recorded{n[0], n[1], n[2], n[3]})
	}
	require.Greater(t, len(all), 400)
	return all
}

// What a server of the recording and its pod are like.
const (
	slots = 4
	// serviceTime is that of a request in a slot, as llamaload reported it: 0.08 s
	// for the prompt, 4.08 s for 100 tokens.
	serviceTime = 4160 * time.Millisecond
	// startTime passes until a new pod serves: it is scheduled, and loads the model.
	startTime = 75 * time.Second
	// grace is the Deployment's preStop: a pod that leaves gets no new requests, and
	// what it has not ended by then is cut off.
	grace = 60 * time.Second
	// window is that of the queries, and delay how old what they see is.
	window = 30 * time.Second
	tick   = time.Second / 4
)

// replica is a server: the requests in its slots end at those times, the others
// wait since those.
type replica struct {
	ready   time.Duration
	leaves  time.Duration // 0: it stays
	running []time.Duration
	waiting []time.Duration
}

func (r *replica) requests() int { return len(r.running) + len(r.waiting) }

// fleet is the servers behind one service, which chooses among those that are
// ready by chance, as kube-proxy does.
type fleet struct {
	replicas  []*replica
	leastBusy bool // instead: a proxy chooses the one that has the fewest requests
	chance    *rand.Rand
	waits     []time.Duration // of each request for a slot
	cut       int             // requests that were running or waiting when their server ended
}

// step brings the fleet to a time at which so many requests arrive.
func (f *fleet) step(now time.Duration, arrivals int) {
	var ready []*replica
	for _, r := range f.replicas {
		if r.leaves == 0 && r.ready <= now {
			ready = append(ready, r)
		}
	}
	for range arrivals {
		r := ready[f.chance.IntN(len(ready))]
		if f.leastBusy {
			r = slices.MinFunc(ready, func(a, b *replica) int { return a.requests() - b.requests() })
		}
		r.waiting = append(r.waiting, now)
	}
	f.replicas = slices.DeleteFunc(f.replicas, func(r *replica) bool {
		var ended []time.Duration
		r.running = slices.DeleteFunc(r.running, func(end time.Duration) bool {
			if end <= now {
				ended = append(ended, end)
			}
			return end <= now
		})
		for len(r.running) < slots && len(r.waiting) > 0 {
			arrived := r.waiting[0]
			start := arrived
			if len(ended) > 0 { // the slot was free from then on
				start = max(arrived, ended[0])
				ended = ended[1:]
			}
			f.waits = append(f.waits, start-arrived)
			r.waiting = r.waiting[1:]
			r.running = append(r.running, start+serviceTime)
		}
		gone := r.leaves > 0 && r.leaves <= now
		if gone {
			f.cut += len(r.running) + len(r.waiting)
		}
		return gone
	})
}

// size is the number of replicas that are to stay.
func (f *fleet) size() int {
	n := 0
	for _, r := range f.replicas {
		if r.leaves == 0 {
			n++
		}
	}
	return n
}

// scale adds replicas, or lets the newest leave, as Kubernetes does.
func (f *fleet) scale(now time.Duration, size int) {
	for f.size() < size {
		f.replicas = append(f.replicas, &replica{ready: now + startTime})
	}
	for i := len(f.replicas) - 1; i >= 0 && f.size() > size; i-- {
		if r := f.replicas[i]; r.leaves == 0 {
			r.leaves = now + grace
		}
	}
}

// requests are those in slots and those that wait.
func (f *fleet) requests() (processing, deferred int) {
	for _, r := range f.replicas {
		processing += len(r.running)
		deferred += len(r.waiting)
	}
	return processing, deferred
}

// trial is a way to serve the load.
type trial struct {
	scaler    *autoscaler // nil: there is one server
	metric    func(processing, deferred int) float64
	leastBusy bool
}

// outcome is what came of a trial.
type outcome struct {
	most            int           // replicas at once
	turns           int           // changes of direction
	soonest         time.Duration // between two of them
	changes         int           // of the number of replicas
	replicaMinutes  float64
	waitP95, waited time.Duration // for a slot; the latter is the longest
	cut             int
	drained         time.Duration // how long requests waited after the last had come
	end             int           // replicas at the end
	depths          []float64     // requests, every 5 s
}

// play sends the recorded arrivals to a fleet for an hour.
func (s trial) play(load []recorded) outcome {
	a := s.scaler
	f := &fleet{replicas: []*replica{{}}, leastBusy: s.leastBusy, chance: rand.New(rand.NewPCG(1, 2))}
	if a != nil {
		f.scale(-startTime, a.least)
	}
	var o outcome
	var history []float64
	const step = 5 * time.Second
	var last time.Duration
	for now := time.Duration(0); now < time.Hour; now += tick {
		arrivals := 0
		if i := int(now / step); i+1 < len(load) {
			// Those of five seconds, evenly.
			from, to := load[i].requests, load[i+1].requests
			part := func(at time.Duration) int { return from + int(float64(to-from)*float64(at)/float64(step)) }
			arrivals = part(now%step+tick) - part(now%step)
			if arrivals > 0 {
				last = now
			}
		}
		f.step(now, arrivals)
		processing, deferred := f.requests()
		if now%step == 0 {
			o.depths = append(o.depths, float64(processing+deferred))
		}
		if deferred > 0 || now == last {
			o.drained = now - last
		}
		o.most = max(o.most, f.size())
		o.replicaMinutes += float64(len(f.replicas)) * tick.Minutes()
		if a == nil {
			continue
		}
		history = append(history, s.metric(processing, deferred))
		if now > 0 && now%syncPeriod == 0 {
			seen := history[max(0, len(history)-int(window/tick)):]
			sum := 0.0
			for _, v := range seen {
				sum += v
			}
			f.scale(now, a.decide(now, sum/float64(len(seen)), f.size()))
		}
	}
	slices.Sort(f.waits)
	o.waitP95, o.waited = f.waits[len(f.waits)*95/100], f.waits[len(f.waits)-1]
	o.cut, o.end = f.cut, f.size()
	if a != nil {
		o.turns, o.soonest, o.changes = a.turns(), a.soonest(), len(a.moved)
	}
	return o
}

// all is what the shipped queries count.
func all(processing, deferred int) float64 { return float64(processing + deferred) }

// The model is right about what is known: one server, which was recorded.
func TestFleet_OneServerIsAsRecorded(t *testing.T) {
	load := loadRecording(t)
	o := trial{}.play(load)
	for i, r := range load {
		want := float64(r.processing + r.deferred)
		assert.InDelta(t, want, o.depths[i], 3+0.015*want, "second %d", r.second)
	}
}
