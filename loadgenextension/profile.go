// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

// ProfileConfig is a load test that can be run.
type ProfileConfig struct {
	// API is the API to send requests to: chat, completions, responses, messages,
	// completion (llama.cpp's own) or embeddings; chat by default.
	API string `mapstructure:"api"`
	// Model is the model to request; if empty, the server chooses.
	Model string `mapstructure:"model"`

	// Prompts selects the prompts to send; ten built-in prompts by default.
	Prompts PromptsConfig `mapstructure:"prompts"`
	// MaxTokens is the maximum number of tokens to generate, 50 to 150 by default.
	// Temperature is 0.5 to 0.9 by default. Both are drawn at random for each
	// request.
	MaxTokens   RangeConfig                             `mapstructure:"max_tokens"`
	Temperature configoptional.Optional[IntervalConfig] `mapstructure:"temperature"`
	// Turns is how many turns a conversation has, drawn for each; 1 by default. With
	// more, a request that is due begins a conversation, and the user thinks for Think
	// before each further turn.
	Turns RangeConfig `mapstructure:"turns"`
	// Stream requests the tokens one by one; true by default. Without it, there is
	// no time to first token.
	Stream bool `mapstructure:"stream"`
	// IgnoreEOS makes every answer exactly MaxTokens long.
	IgnoreEOS bool `mapstructure:"ignore_eos"`
	// Seed makes the random prompts, lengths and gaps repeatable; if nil, each run
	// has a seed of its own.
	Seed *uint64 `mapstructure:"seed"`

	// Cancel selects requests whose client leaves before the answer is complete.
	Cancel CancelConfig `mapstructure:"cancel"`

	// Rate is the rate of an open loop in requests per second; 2 by default. Ramp,
	// Steps, Sine and Replay replace it by one that changes.
	Rate   float64                               `mapstructure:"rate"`
	Ramp   configoptional.Optional[RampConfig]   `mapstructure:"ramp"`
	Steps  []StepConfig                          `mapstructure:"steps"`
	Sine   configoptional.Optional[SineConfig]   `mapstructure:"sine"`
	Replay configoptional.Optional[ReplayConfig] `mapstructure:"replay"`
	// Gaps is the distribution of the time between requests: constant, poisson or
	// gamma; constant by default. Burstiness is the shape of gamma gaps: less than
	// 1 is burstier than poisson, more is more regular.
	Gaps       string  `mapstructure:"gaps"`
	Burstiness float64 `mapstructure:"burstiness"`
	// Users is the number of users of a closed loop, which replaces the open loop.
	// Each user waits for Think after an answer. In an open loop, Think is the time
	// between the turns of a conversation.
	Users int           `mapstructure:"users"`
	Think time.Duration `mapstructure:"think"`

	// Duration is how long requests are sent; 1m by default, and of a replay until
	// its last request. The report leaves out requests that are due within WarmUp of
	// its start or within Tail of its end.
	Duration time.Duration `mapstructure:"duration"`
	WarmUp   time.Duration `mapstructure:"warm_up"`
	Tail     time.Duration `mapstructure:"tail"`
	// MaxInFlight is the maximum number of requests in flight; 1000 by default. A
	// request that is due while so many are in flight waits for up to MaxWait, 0
	// by default, and is then dropped.
	MaxInFlight int           `mapstructure:"max_in_flight"`
	MaxWait     time.Duration `mapstructure:"max_wait"`
	// Drain is how long to wait for answers at the end; 1m by default.
	Drain time.Duration `mapstructure:"drain"`
	// MaxErrors is the share of errors among the last 100 requests above which the
	// run stops; 0.5 by default. With 1, it never stops for that reason.
	MaxErrors float64 `mapstructure:"max_errors"`
	// Objective is the latency objective that a request has to meet to count as
	// goodput, e.g. ttft<500ms && tpot<50ms.
	Objective string `mapstructure:"objective"`

	// Start runs the profile as soon as the collector has started.
	Start bool `mapstructure:"start"`
}

// PromptsConfig is the section prompts. At most one of texts, file and synthetic
// is set; without any, the built-in prompts are sent.
type PromptsConfig struct {
	Texts []string `mapstructure:"texts"`
	// File is the path of a file with one JSON object per line, each of which has
	// messages, conversations or prompt.
	File string `mapstructure:"file"`
	// Synthetic generates prompts with an exact number of tokens, as llama-server
	// counts them.
	Synthetic configoptional.Optional[SyntheticConfig] `mapstructure:"synthetic"`
	// Repeat sends the same prompts again and again. By default, each begins with
	// a unique number, so that the server's prompt cache does not make it look
	// faster than it is.
	Repeat bool `mapstructure:"repeat"`
	// NoCache asks llama-server not to use its prompt cache, so that it computes
	// every prompt in full.
	NoCache bool `mapstructure:"no_cache"`
}

// SyntheticConfig is the section prompts::synthetic.
type SyntheticConfig struct {
	// Tokens is the number of new tokens in each prompt. They follow Depth tokens
	// that are in context already.
	Tokens RangeConfig `mapstructure:"tokens"`
	Depth  int         `mapstructure:"depth"`
	// ColdDepth makes the Depth tokens new in each prompt as well, so that none of
	// them is in the server's cache.
	ColdDepth bool `mapstructure:"cold_depth"`
	// SharedPrefix is the share of the new tokens that is the same at the start of
	// all prompts.
	SharedPrefix float64 `mapstructure:"shared_prefix"`
}

// CancelConfig is the section cancel.
type CancelConfig struct {
	// Share is the share of requests that are cancelled, each after After chunks of
	// text; 10 by default.
	Share float64 `mapstructure:"share"`
	After int     `mapstructure:"after"`
}

// RangeConfig is a range of whole numbers from Min to Max, both included.
type RangeConfig struct {
	Min int `mapstructure:"min"`
	Max int `mapstructure:"max"`
}

// IntervalConfig is a range of numbers from Min to Max.
type IntervalConfig struct {
	Min float64 `mapstructure:"min"`
	Max float64 `mapstructure:"max"`
}

func newDefaultProfile() ProfileConfig {
	return ProfileConfig{
		API:         completion.Chat.String(),
		Prompts:     PromptsConfig{Synthetic: configoptional.Default(SyntheticConfig{Tokens: RangeConfig{512, 512}})},
		MaxTokens:   RangeConfig{50, 150},
		Turns:       RangeConfig{1, 1},
		Temperature: configoptional.Some(IntervalConfig{0.5, 0.9}),
		Stream:      true,
		Cancel:      CancelConfig{After: 10},
		Rate:        2,
		Ramp:        configoptional.Default(RampConfig{}),
		Sine:        configoptional.Default(SineConfig{}),
		Replay:      configoptional.Default(ReplayConfig{Speed: 1}),
		Gaps:        "constant",
		Burstiness:  1,
		Duration:    time.Minute,
		MaxInFlight: 1000,
		Drain:       time.Minute,
		MaxErrors:   0.5,
	}
}

var _ confmap.Unmarshaler = (*ProfileConfig)(nil)

// Unmarshal implements confmap.Unmarshaler. Settings that a profile leaves out
// have their defaults.
func (p *ProfileConfig) Unmarshal(conf *confmap.Conf) error {
	*p = newDefaultProfile()
	if err := conf.Unmarshal(p); err != nil {
		return err
	}
	if !conf.IsSet("rate") && len(p.schedules()) > 1 {
		p.Rate = 0
	}
	if !conf.IsSet("duration") && p.Replay.HasValue() {
		p.Duration = 0 // limits::duration, which is not known here
	}
	return nil
}

// Overrides are the settings of a profile that a request to start a run may
// replace. Nil keeps the profile's value.
type Overrides struct {
	Rate     *float64 `json:"rate"`
	Users    *int     `json:"users"`
	Duration *float64 `json:"duration"` // seconds
	WarmUp   *float64 `json:"warm_up"`  // seconds
	Seed     *uint64  `json:"seed"`
	Model    *string  `json:"model"`
}

// with returns the profile with the overrides applied.
func (p ProfileConfig) with(o Overrides) ProfileConfig {
	if o.Users != nil || o.Rate != nil {
		p = p.unscheduled()
	}
	if o.Users != nil {
		p.Users = *o.Users
	}
	if p.Users == 0 && !p.converses() {
		p.Think = 0 // of the users that the rate replaces
	}
	if o.Rate != nil {
		p.Rate = *o.Rate
	}
	if o.Duration != nil {
		p.Duration = time.Duration(*o.Duration * float64(time.Second))
	}
	if o.WarmUp != nil {
		p.WarmUp = time.Duration(*o.WarmUp * float64(time.Second))
	}
	if o.Seed != nil {
		p.Seed = o.Seed
	}
	if o.Model != nil {
		p.Model = *o.Model
	}
	return p
}

// converses reports whether a request can begin a conversation.
func (p *ProfileConfig) converses() bool { return p.Turns.Max > 1 }

// validate returns an error, which begins with the name of a setting, if the
// profile cannot be run or exceeds the limits.
func (p *ProfileConfig) validate(l LimitsConfig) error {
	if p.Duration <= 0 || p.Duration > l.Duration {
		return fmt.Errorf("duration: %s: want more than 0 and at most %s, or raise limits::duration", p.Duration, l.Duration)
	}
	if err := p.validateSchedule(l); err != nil {
		return err
	}
	if p.Prompts.kinds() > 1 {
		return errors.New("prompts: texts, file and synthetic: keep one of them")
	}
	if s := p.Prompts.Synthetic.Get(); s != nil {
		if s.Tokens.Min < 1 || s.Tokens.Max < s.Tokens.Min || s.Depth < 0 {
			return fmt.Errorf("prompts::synthetic: %d to %d tokens after %d: want 1 or more, and min no greater than max", s.Tokens.Min, s.Tokens.Max, s.Depth)
		}
		if !(s.SharedPrefix >= 0 && s.SharedPrefix <= 1) {
			return fmt.Errorf("prompts::synthetic::shared_prefix: %g: want 0 to 1", s.SharedPrefix)
		}
	}
	if p.MaxTokens.Min < 1 || p.MaxTokens.Max < p.MaxTokens.Min {
		return fmt.Errorf("max_tokens: %d to %d: want 1 or more, and min no greater than max", p.MaxTokens.Min, p.MaxTokens.Max)
	}
	if p.Turns.Min < 1 || p.Turns.Max < p.Turns.Min {
		return fmt.Errorf("turns: %d to %d: want 1 or more, and min no greater than max", p.Turns.Min, p.Turns.Max)
	}
	if p.converses() && p.API == completion.Embeddings.String() {
		return errors.New("turns: embeddings have no answer that a conversation could go on from: leave turns out, or choose another api")
	}
	if p.Prompts.NoCache && p.API == completion.Messages.String() {
		return errors.New("prompts::no_cache: llama-server uses its cache for the api messages whatever a request says: choose chat, or leave no_cache out")
	}
	if p.Think > 0 && p.Users == 0 && !p.converses() {
		return errors.New("think: nobody waits for an answer here: want users, or turns, or leave think out")
	}
	if t := p.Temperature.Get(); t != nil && !(t.Min >= 0 && t.Max >= t.Min) {
		return fmt.Errorf("temperature: %g to %g: want 0 or more, and min no greater than max", t.Min, t.Max)
	}
	if _, err := completion.ParseEndpoint(p.API); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return p.Cancel.validate(p.Stream && p.API != completion.Embeddings.String())
}

func (c *CancelConfig) validate(stream bool) error {
	switch {
	case !(c.Share >= 0 && c.Share <= 1):
		return fmt.Errorf("cancel::share: %g: want 0 to 1", c.Share)
	case c.After < 1:
		return fmt.Errorf("cancel::after: %d chunks: want 1 or more", c.After)
	case c.Share > 0 && !stream:
		return errors.New("cancel: an answer that is not streamed has no chunks after which to cancel: stream it, or leave cancel out")
	}
	return nil
}

// workload returns what a run sends, and a description of its prompts for people.
func (p *ProfileConfig) workload(ctx context.Context, t workload.Tokenizer, seed uint64) (*workload.Workload, string, error) {
	s := workload.Settings{
		Model: p.Model, Seed: seed, MaxTokens: workload.Range(p.MaxTokens),
		Stream: p.Stream, IgnoreEOS: p.IgnoreEOS, Repeat: p.Prompts.Repeat, NoCache: p.Prompts.NoCache,
		CancelShare: p.Cancel.Share,
	}
	var err error
	if s.Endpoint, err = completion.ParseEndpoint(p.API); err != nil {
		return nil, "", err
	}
	if s.Endpoint == completion.Embeddings {
		s.Stream = false
	}
	// Only what is in effect is part of the workload's hash.
	if p.converses() {
		s.Turns = workload.Range(p.Turns)
	}
	if s.CancelShare > 0 {
		s.CancelAfter = p.Cancel.After
	}
	if t := p.Temperature.Get(); t != nil {
		interval := workload.Interval(*t)
		s.Temperature = &interval
	}
	source, words, err := p.Prompts.source(ctx, t, seed)
	if err != nil {
		return nil, "", err
	}
	w, err := workload.New(s, source)
	return w, words, err
}

func (c *PromptsConfig) kinds() int {
	n := 0
	for _, given := range []bool{len(c.Texts) > 0, c.File != "", c.Synthetic.HasValue()} {
		if given {
			n++
		}
	}
	return n
}

func (c *PromptsConfig) source(ctx context.Context, t workload.Tokenizer, seed uint64) (workload.Source, string, error) {
	switch {
	case len(c.Texts) > 0:
		p, err := workload.Inline(c.Texts...)
		return p, fmt.Sprintf("%d prompts of the configuration", len(c.Texts)), err
	case c.File != "":
		content, err := os.ReadFile(c.File)
		if err != nil {
			return nil, "", err
		}
		p, err := workload.Parse(content, c.File)
		return p, "prompts of " + c.File, err
	case c.Synthetic.HasValue():
		s := c.Synthetic.Get()
		l := workload.Lengths{New: workload.Range(s.Tokens), Depth: s.Depth, ColdDepth: s.ColdDepth, Shared: s.SharedPrefix}
		p, err := workload.NewSynthetic(ctx, t, l, seed)
		return p, fmt.Sprintf("synthetic prompts of %s@%d tokens", l.New, l.Depth), err
	}
	return workload.Builtin(), "10 built-in prompts", nil
}

// check reads the files that the profile needs, so that the collector does not
// start without them.
func (p *ProfileConfig) check(ctx context.Context, l LimitsConfig) error {
	if _, err := p.pacing(0, l); err != nil {
		return err
	}
	if p.Prompts.Synthetic.HasValue() {
		return nil // making the prompts needs the server, which may not be up yet
	}
	if _, _, err := p.workload(ctx, nil, 0); err != nil {
		return fmt.Errorf("prompts: %w", err)
	}
	return nil
}
