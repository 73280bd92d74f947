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

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/arrival"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/completion"
	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

// ProfileConfig is a load test that can be run.
type ProfileConfig struct {
	// API is chat, completions, responses, messages, completion (llama.cpp's own)
	// or embeddings; chat by default.
	API string `mapstructure:"api"`
	// Model is the model to ask for; "" leaves it to the server.
	Model string `mapstructure:"model"`

	// Prompts say what is sent: ten built-in prompts by default.
	Prompts PromptsConfig `mapstructure:"prompts"`
	// MaxTokens is the most tokens to generate, 50 to 150 by default, Temperature
	// 0.5 to 0.9; both are drawn for each request.
	MaxTokens   RangeConfig                             `mapstructure:"max_tokens"`
	Temperature configoptional.Optional[IntervalConfig] `mapstructure:"temperature"`
	// Stream asks for the tokens one by one; true by default, without it there is
	// no time to first token.
	Stream bool `mapstructure:"stream"`
	// IgnoreEOS makes every answer as long as MaxTokens.
	IgnoreEOS bool `mapstructure:"ignore_eos"`
	// Seed is what prompts, lengths and gaps are drawn from; without it another
	// each time.
	Seed *uint64 `mapstructure:"seed"`

	// Rate is in requests a second, 2 by default: an open loop.
	Rate float64 `mapstructure:"rate"`
	// Gaps between requests are constant, poisson or gamma of Burstiness;
	// constant by default.
	Gaps       string  `mapstructure:"gaps"`
	Burstiness float64 `mapstructure:"burstiness"`
	// Users make a closed loop instead; each waits Think after an answer.
	Users int           `mapstructure:"users"`
	Think time.Duration `mapstructure:"think"`

	// Duration is how long requests are sent; 1m by default. WarmUp and Tail are
	// cut from its start and end in the report.
	Duration time.Duration `mapstructure:"duration"`
	WarmUp   time.Duration `mapstructure:"warm_up"`
	Tail     time.Duration `mapstructure:"tail"`
	// MaxInFlight is the most requests under way, 1000 by default. One that is
	// due beyond it waits for MaxWait, 0 by default, and is dropped.
	MaxInFlight int           `mapstructure:"max_in_flight"`
	MaxWait     time.Duration `mapstructure:"max_wait"`
	// Drain is how long to wait for answers at the end, 1m by default.
	Drain time.Duration `mapstructure:"drain"`
	// MaxErrors is the share of errors among the last 100 requests that ends a
	// run; 0.5 by default, 1 is never.
	MaxErrors float64 `mapstructure:"max_errors"`
	// Objective is what a good request meets, e.g. ttft<500ms && tpot<50ms.
	Objective string `mapstructure:"objective"`

	// Start has the profile run as soon as the collector has started.
	Start bool `mapstructure:"start"`
}

// PromptsConfig is the section prompts: one of texts, file and synthetic, or
// none for the built-in prompts.
type PromptsConfig struct {
	Texts []string `mapstructure:"texts"`
	// File has JSON objects, one a line, with messages, conversations or prompt.
	File string `mapstructure:"file"`
	// Synthetic prompts have an exact number of tokens, as llama-server counts.
	Synthetic configoptional.Optional[SyntheticConfig] `mapstructure:"synthetic"`
	// Repeat sends prompts as they are, again and again. By default each begins
	// with a number of its own, so that the server's cache does not flatter.
	Repeat bool `mapstructure:"repeat"`
}

// SyntheticConfig is the section prompts::synthetic.
type SyntheticConfig struct {
	// Tokens are new in each prompt, after Depth that are in context already.
	Tokens RangeConfig `mapstructure:"tokens"`
	Depth  int         `mapstructure:"depth"`
	// ColdDepth makes those before new as well, so that none is in the cache.
	ColdDepth bool `mapstructure:"cold_depth"`
	// SharedPrefix is the share of the new tokens with which all prompts begin.
	SharedPrefix float64 `mapstructure:"shared_prefix"`
}

// RangeConfig are whole numbers from Min to Max.
type RangeConfig struct {
	Min int `mapstructure:"min"`
	Max int `mapstructure:"max"`
}

// IntervalConfig are numbers from Min to Max.
type IntervalConfig struct {
	Min float64 `mapstructure:"min"`
	Max float64 `mapstructure:"max"`
}

func newDefaultProfile() ProfileConfig {
	return ProfileConfig{
		API:         completion.Chat.String(),
		Prompts:     PromptsConfig{Synthetic: configoptional.Default(SyntheticConfig{Tokens: RangeConfig{512, 512}})},
		MaxTokens:   RangeConfig{50, 150},
		Temperature: configoptional.Some(IntervalConfig{0.5, 0.9}),
		Stream:      true,
		Rate:        2,
		Gaps:        "constant",
		Burstiness:  1,
		Duration:    time.Minute,
		MaxInFlight: 1000,
		Drain:       time.Minute,
		MaxErrors:   0.5,
	}
}

var _ confmap.Unmarshaler = (*ProfileConfig)(nil)

// Unmarshal implements confmap.Unmarshaler: what a profile does not say has a
// default.
func (p *ProfileConfig) Unmarshal(conf *confmap.Conf) error {
	*p = newDefaultProfile()
	if err := conf.Unmarshal(p); err != nil {
		return err
	}
	if p.Users > 0 && !conf.IsSet("rate") {
		p.Rate = 0
	}
	return nil
}

// Overrides are what a request to start a run may change of its profile.
type Overrides struct {
	Rate     *float64 `json:"rate"`
	Users    *int     `json:"users"`
	Duration *float64 `json:"duration"` // seconds
	WarmUp   *float64 `json:"warm_up"`  // seconds
	Seed     *uint64  `json:"seed"`
	Model    *string  `json:"model"`
}

// with is the profile with something else.
func (p ProfileConfig) with(o Overrides) ProfileConfig {
	if o.Users != nil {
		p.Users, p.Rate = *o.Users, 0
	}
	if o.Rate != nil {
		p.Rate = *o.Rate
		if o.Users == nil {
			p.Users = 0
		}
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

// validate says what of the profile cannot be run. The error begins with the
// setting's name.
func (p *ProfileConfig) validate(l LimitsConfig) error {
	switch {
	case p.Rate != 0 && p.Users != 0:
		return errors.New("rate and users: an open loop has a rate, a closed loop has users; keep one of them")
	case p.Rate > l.Rate:
		return fmt.Errorf("rate: %g: want at most %g requests a second, or raise limits::rate", p.Rate, l.Rate)
	case p.Users < 0 || p.Users > l.Users:
		return fmt.Errorf("users: %d: want 1 to %d, or raise limits::users", p.Users, l.Users)
	case p.Duration <= 0 || p.Duration > l.Duration:
		return fmt.Errorf("duration: %s: want more than 0 and at most %s, or raise limits::duration", p.Duration, l.Duration)
	}
	if _, _, err := p.pacing(0); err != nil {
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
	if t := p.Temperature.Get(); t != nil && !(t.Min >= 0 && t.Max >= t.Min) {
		return fmt.Errorf("temperature: %g to %g: want 0 or more, and min no greater than max", t.Min, t.Max)
	}
	if _, err := completion.ParseEndpoint(p.API); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}

// closed reports whether the profile is a closed loop.
func (p *ProfileConfig) closed() bool { return p.Users > 0 }

// pacing is how a run is paced, and that in words.
func (p *ProfileConfig) pacing(seed uint64) (*loadgen.Config, string, error) {
	c := &loadgen.Config{
		Users: p.Users, Think: p.Think, Duration: p.Duration, WarmUp: p.WarmUp, Tail: p.Tail,
		MaxInFlight: p.MaxInFlight, MaxWait: p.MaxWait, Drain: p.Drain, MaxErrors: p.MaxErrors, Sleep: loadgen.PreciseSleep,
	}
	words := fmt.Sprintf("closed loop of %d users who think %s", p.Users, p.Think)
	if !p.closed() {
		curve, err := arrival.NewConstant(p.Rate)
		if err != nil {
			return nil, "", fmt.Errorf("rate: %w", err)
		}
		gaps, err := p.gaps()
		if err != nil {
			return nil, "", err
		}
		c.Dial = arrival.NewDial(curve, gaps, seed)
		words = fmt.Sprintf("open loop, %g requests/s, gaps %s", p.Rate, p.Gaps)
	}
	if p.Objective != "" {
		var err error
		if c.Objective, err = loadgen.ParseObjective(p.Objective); err != nil {
			return nil, "", err
		}
	}
	words += fmt.Sprintf(", for %s", p.Duration)
	if err := c.Validate(); err != nil {
		return nil, "", err
	}
	return c, words, nil
}

func (p *ProfileConfig) gaps() (arrival.Gaps, error) {
	switch p.Gaps {
	case "constant":
		return arrival.Regular, nil
	case "poisson":
		return arrival.Poisson, nil
	case "gamma":
		if !(p.Burstiness > 0) {
			return nil, fmt.Errorf("burstiness: %g: want a number greater than 0", p.Burstiness)
		}
		return arrival.Gamma(p.Burstiness), nil
	}
	return nil, fmt.Errorf("gaps: %q: want constant, poisson or gamma", p.Gaps)
}

// workload is what a run sends, and its prompts in words.
func (p *ProfileConfig) workload(ctx context.Context, t workload.Tokenizer, seed uint64) (*workload.Workload, string, error) {
	s := workload.Settings{
		Model: p.Model, Seed: seed, MaxTokens: workload.Range(p.MaxTokens),
		Stream: p.Stream, IgnoreEOS: p.IgnoreEOS, Repeat: p.Prompts.Repeat,
	}
	var err error
	if s.Endpoint, err = completion.ParseEndpoint(p.API); err != nil {
		return nil, "", err
	}
	if s.Endpoint == completion.Embeddings {
		s.Stream = false
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

// check reads what the profile needs from files.
func (p *ProfileConfig) check(ctx context.Context) error {
	if p.Prompts.Synthetic.HasValue() {
		return nil // only its server knows
	}
	if _, _, err := p.workload(ctx, nil, 0); err != nil {
		return fmt.Errorf("prompts: %w", err)
	}
	return nil
}
