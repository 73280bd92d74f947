// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package llamasim simulates llama.cpp's llama-server: its HTTP answers, its
// counters and slots while requests run, its log, and its faults on command. It
// needs no model and no processor time, so a thousand servers fit in one process,
// and a test knows the exact truth behind what a monitor reports.
//
// It answers as build b11669 does, field by field; test/simreal compares it
// with the real server.
package llamasim

import (
	"io"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/tinygguf"
)

// Build is the generation of llama-server to imitate.
type Build int

const (
	// Current is build b11669.
	Current Build = iota
	// Old is about b5000: next_token is an object, there are no cached-token
	// and speculation counters, n_busy_slots_per_decode is typed counter, a
	// released slot keeps its n_decoded, and /metrics wakes a sleeping server.
	Old
	// Future has metric families and JSON fields that nobody knows yet, and
	// lacks a few known ones.
	Future
)

func (b Build) String() string {
	return [...]string{"b11669-sim", "b5000-sim", "b20000-sim"}[b]
}

// Options are the settings of a simulated server. The zero value is a server
// with 4 slots of 2048 tokens and every endpoint on.
type Options struct {
	// Slots is -np (default 4).
	Slots int
	// ContextPerSlot is -c divided by -np, in tokens (default 2048).
	ContextPerSlot int
	// TokensPerSecond is the generation speed of each slot (default 100), without
	// what Draft adds.
	TokensPerSecond float64
	// PromptTokensPerSecond is the prompt speed of the whole server (default 2000).
	PromptTokensPerSecond float64
	// BatchTokens is -b: the step in which prompt progress is visible (default 2048).
	BatchTokens int
	// ModelName is the model's id and alias (default "sim").
	ModelName string
	// APIKey is --api-key; several are separated by commas.
	APIKey string
	// NoMetrics and NoSlots switch the endpoints off: they answer 501.
	NoMetrics, NoSlots bool
	// SlotsDebug is LLAMA_SERVER_SLOTS_DEBUG=1: /slots shows users' text.
	SlotsDebug bool
	// Draft is --draft-max of speculative decoding with a draft model
	// (--spec-type draft-simple); 0 is without. A step then gives up to that many
	// tokens more than one.
	Draft int
	// DraftAcceptance is the chance of a drafted token to be accepted, if those
	// before it were (default 0.6).
	DraftAcceptance float64
	// SleepAfter is --sleep-idle-seconds; 0 never sleeps.
	SleepAfter time.Duration
	// WakeTime is the time a reload takes (default 50 ms).
	WakeTime time.Duration
	// LoadTime passes after the start before the model is loaded; until then
	// everything answers 503.
	LoadTime time.Duration
	// Prefix is --api-prefix, such as "/llama".
	Prefix string
	// Build is the generation of llama-server to imitate.
	Build Build
	// BlockDuringDecode makes /metrics and /slots wait for the running batch,
	// as older builds do.
	BlockDuringDecode bool
	// Router makes the server a router of several models.
	Router *RouterOptions
	// Log gets what the server would write to standard error; nil drops it.
	Log io.Writer
	// Seed chooses the generated words.
	Seed uint64
	// Now is the clock (default time.Now). It must not go backwards.
	Now func() time.Time

	ownClock bool
}

// RouterOptions are the settings of router mode.
type RouterOptions struct {
	// Models are the names of the models.
	Models []string
	// Broken are names of further models that fail to load.
	Broken []string
	// MaxLoaded is --models-max (default 4).
	MaxLoaded int
	// NoAutoload is --no-models-autoload.
	NoAutoload bool
	// LoadTime is the time a model takes to load (default 50 ms).
	LoadTime time.Duration
}

func (o Options) withDefaults() Options {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.Slots, 4)
	def(&o.ContextPerSlot, 2048)
	def(&o.BatchTokens, 2048)
	if o.TokensPerSecond == 0 {
		o.TokensPerSecond = 100
	}
	if o.PromptTokensPerSecond == 0 {
		o.PromptTokensPerSecond = 2000
	}
	if o.DraftAcceptance == 0 {
		o.DraftAcceptance = 0.6
	}
	if o.ModelName == "" {
		o.ModelName = "sim"
	}
	if o.WakeTime == 0 {
		o.WakeTime = 50 * time.Millisecond
	}
	o.ownClock = o.Now != nil
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Router != nil {
		r := *o.Router
		def(&r.MaxLoaded, 4)
		if r.LoadTime == 0 {
			r.LoadTime = 50 * time.Millisecond
		}
		o.Router = &r
	}
	return o
}

// word is the i-th generated word of a task: the same for the same seed.
func word(seed uint64, id int64, i int) string {
	return vocabulary[chance(seed, id, i)%uint64(len(vocabulary))]
}

// chance is a number that looks random and is the same for the same token.
func chance(seed uint64, id int64, i int) uint64 {
	z := seed + uint64(id)*0x9e3779b97f4a7c15 + uint64(i)*0xbf58476d1ce4e5b9
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

var vocabulary = tinygguf.Words()
