// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgen

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/loadgen/workload"
)

// Report describes a run and its results. Times are in seconds.
type Report struct {
	Generator Generator `json:"generator"`
	Run       About     `json:"run"`
	Workload  Workload  `json:"workload"`

	Requests Counts         `json:"requests"`
	Outside  Counts         `json:"requests_outside"`
	Errors   map[string]int `json:"errors"`
	// Examples are the first error of each class, those in warm-up and tail included.
	Examples map[string]string `json:"error_examples,omitempty"`

	Latency struct {
		TTFT *Histogram `json:"ttft"`
		TPOT *Histogram `json:"tpot"`
		ITL  *Histogram `json:"itl"`
		E2E  *Histogram `json:"e2e"`
		Lag  *Histogram `json:"lag"`
	} `json:"latency"`
	FromSend struct {
		TTFT *Histogram `json:"ttft"`
		E2E  *Histogram `json:"e2e"`
	} `json:"latency_from_send"`
	Server struct {
		Waiting    *Histogram `json:"waiting"`
		Prompt     *Histogram `json:"prompt"`
		Prediction *Histogram `json:"prediction"`
	} `json:"server"`

	Tokens struct {
		Tokens
		// CacheHitRate is null if the server does not report cached tokens.
		CacheHitRate *float64 `json:"cache_hit_rate"`
		// PerChunk is null if nothing was streamed.
		PerChunk *float64 `json:"per_chunk"`
	} `json:"tokens"`
	// Rates are per second of Seconds, the time from the end of warm-up until the
	// last answer.
	Rates struct {
		Seconds      float64 `json:"seconds"`
		Requests     float64 `json:"requests"`
		InputTokens  float64 `json:"input_tokens"`
		OutputTokens float64 `json:"output_tokens"`
	} `json:"rates"`
	// Turns are the turns of conversations, the first first; nil if there were none.
	Turns []TurnReport `json:"turns,omitempty"`
	// Recorded is nil unless the run was a replay.
	Recorded       *Recorded       `json:"recorded,omitempty"`
	Goodput        *Goodput        `json:"goodput,omitempty"`
	Reconciliation *Reconciliation `json:"reconciliation"`
	// NotReconciled is the reason why Reconciliation is nil.
	NotReconciled string  `json:"not_reconciled,omitempty"`
	Energy        *Energy `json:"energy"`
	// NoEnergy is the reason why Energy is nil.
	NoEnergy string `json:"no_energy,omitempty"`
}

// Generator tells whether the figures reflect the server or the load generator.
type Generator struct {
	// Limited reports whether the load generator, or a limit set for it, was the
	// bottleneck.
	Limited bool   `json:"limited"`
	Note    string `json:"note"`
}

// About describes the run that was made.
type About struct {
	Version  string    `json:"version"`
	URL      string    `json:"url"`
	Started  time.Time `json:"started"`
	Schedule string    `json:"schedule"`
	Duration float64   `json:"duration"`
	WarmUp   float64   `json:"warm_up"`
	Tail     float64   `json:"tail"`
	// Ended is Done, or the reason why the run ended early.
	Ended string `json:"ended"`
}

// Done says of a run that it did not end early.
const Done = "done"

// Workload describes the requests that were sent.
type Workload struct {
	Hash     string `json:"hash"`
	Endpoint string `json:"endpoint"`
	Model    string `json:"model,omitempty"`
	Prompts  string `json:"prompts"`
	workload.Settings
}

// TurnReport describes one turn of all conversations.
type TurnReport struct {
	Turn     int    `json:"turn"` // 1 is the first
	Requests Counts `json:"requests"`
	Tokens   struct {
		Tokens
		CacheHitRate *float64 `json:"cache_hit_rate"`
	} `json:"tokens"`
	TTFT *Histogram `json:"ttft"`
}

// Recorded describes the recording that a replay repeated.
type Recorded struct {
	Format   string `json:"format"`
	Requests int    `json:"requests"`
	// LeftOut is the number of requests that could not be repeated, since the
	// recording lacks their lengths.
	LeftOut int `json:"left_out"`
	// Tokens are the recorded ones of those requests that are in the report's tokens.
	Tokens RecordedTokens `json:"tokens"`
}

// RecordedTokens are numbers of recorded tokens. Cached tokens are part of the input.
type RecordedTokens struct {
	Input  int `json:"input"`
	Output int `json:"output"`
	Cached int `json:"cached"`
	// CacheHitRate is what a replay's own should be.
	CacheHitRate float64 `json:"cache_hit_rate"`
}

// Goodput describes the requests that met the objective. Share is their share of
// the requests that were due.
type Goodput struct {
	Objective string  `json:"objective"`
	Requests  int     `json:"requests"`
	Share     float64 `json:"share"`
	PerSecond float64 `json:"per_second"`
}

// tooLate is the 99th percentile of lag above which the report names the load
// generator as the bottleneck, since its lag is part of every latency.
const tooLate = 10 * time.Millisecond

// NewReport returns the report of a run.
func NewReport(c *Config, r *Results, about About, w Workload) *Report {
	p := &Report{Generator: generator(c, r), Run: about, Workload: w, NoEnergy: NoGPUMetrics, Requests: r.Counts, Outside: r.Outside, Errors: r.Errors, Examples: r.Examples}
	p.Latency.TTFT, p.Latency.TPOT, p.Latency.ITL, p.Latency.E2E, p.Latency.Lag = r.TTFT, r.TPOT, r.ITL, r.E2E, r.Lag
	p.FromSend.TTFT, p.FromSend.E2E = r.TTFTFromSend, r.E2EFromSend
	p.Server.Waiting, p.Server.Prompt, p.Server.Prediction = r.Waiting, r.Prompt, r.Prediction
	p.Tokens.Tokens = r.Tokens
	if rate, ok := r.Tokens.HitRate(); ok {
		p.Tokens.CacheHitRate = &rate
	}
	if n, ok := r.TokensPerChunk(); ok {
		p.Tokens.PerChunk = &n
	}
	if len(r.Turns) > 1 {
		for i, t := range r.Turns {
			one := TurnReport{Turn: i + 1, Requests: t.Counts, TTFT: t.TTFT}
			one.Tokens.Tokens = t.Tokens
			if rate, ok := t.Tokens.HitRate(); ok {
				one.Tokens.CacheHitRate = &rate
			}
			p.Turns = append(p.Turns, one)
		}
	}
	if s := r.Span.Seconds(); s > 0 {
		p.Rates.Seconds = s
		p.Rates.Requests = float64(r.Counts.OK) / s
		p.Rates.InputTokens = float64(r.Tokens.Input) / s
		p.Rates.OutputTokens = float64(r.Tokens.Output) / s
	}
	if c.Objective != nil {
		g := &Goodput{Objective: c.Objective.String(), Requests: r.Good}
		g.Share, _ = share(r.Good, r.Counts.Due)
		if p.Rates.Seconds > 0 {
			g.PerSecond = float64(r.Good) / p.Rates.Seconds
		}
		p.Goodput = g
	}
	return p
}

// Completed reports whether the run did not end early.
func (p *Report) Completed() bool { return p.Run.Ended == Done }

func generator(c *Config, r *Results) Generator {
	p99 := r.Lag.Percentile(99)
	late := "99 % of requests were sent within " + short(p99) + " of when they were due"
	var why []string
	if n := r.Counts.Dropped; n > 0 {
		why = append(why, fmt.Sprintf("%d of %d requests were dropped, since %d were in flight already", n, r.Counts.Due, c.MaxInFlight))
	}
	if p99 > tooLate {
		why = append(why, late)
	}
	if len(why) > 0 {
		return Generator{Limited: true, Note: "GENERATOR WAS THE BOTTLENECK: " + strings.Join(why, "; ")}
	}
	if r.Counts.Sent == 0 {
		return Generator{Note: "no request was sent"}
	}
	return Generator{Note: "generator kept up: " + late}
}

// WriteJSON writes the report as indented JSON.
func (p *Report) WriteJSON(w io.Writer) error { return WriteJSON(w, p) }

// WriteJSON writes a value as indented JSON for people and programs.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // objectives contain <
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Number is a figure as a field of CSV, in full, empty if there is none.
func Number(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', -1, 64)
}

type row struct {
	name, what string
	h          *Histogram
}

func (p *Report) rows() []row {
	return []row{
		{"ttft", "time to first token", p.Latency.TTFT},
		{"tpot", "time per output token", p.Latency.TPOT},
		{"itl", "between chunks", p.Latency.ITL},
		{"e2e", "end to end", p.Latency.E2E},
		{"lag", "sent after due", p.Latency.Lag},
		{"ttft_from_send", "first token, from send", p.FromSend.TTFT},
		{"e2e_from_send", "end to end, from send", p.FromSend.E2E},
		{"server_waiting", "server: queue, network", p.Server.Waiting},
		{"server_prompt", "server: prompt", p.Server.Prompt},
		{"server_prediction", "server: prediction", p.Server.Prediction},
	}
}

// figures returns p50, p95, p99, max and mean.
func (h *Histogram) figures() []time.Duration {
	return []time.Duration{h.Percentile(50), h.Percentile(95), h.Percentile(99), h.Max(), h.Mean()}
}

// WriteCSV writes one row for each latency, in seconds.
func (p *Report) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	rows := [][]string{{"metric", "count", "p50", "p95", "p99", "max", "mean"}}
	all := p.rows()
	for _, t := range p.Turns {
		all = append(all, row{fmt.Sprintf("ttft_turn_%d", t.Turn), "", t.TTFT})
	}
	for _, r := range all {
		fields := []string{r.name, strconv.FormatInt(r.h.Count(), 10)}
		for _, d := range r.h.figures() {
			field := ""
			if r.h.Count() > 0 {
				field = strconv.FormatFloat(d.Seconds(), 'g', -1, 64)
			}
			fields = append(fields, field)
		}
		rows = append(rows, fields)
	}
	return c.WriteAll(rows)
}

// WriteMarkdown writes the report for an issue or a pull request.
func (p *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	for _, l := range p.lines() {
		fmt.Fprintf(&b, "- %s: %s\n", l[0], strings.ReplaceAll(l[1], "|", `\|`))
	}
	b.WriteString("\n| latency | p50 | p95 | p99 | max | mean |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for _, r := range p.rows() {
		if r.h.Count() == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %s |", r.what)
		for _, d := range r.h.figures() {
			fmt.Fprintf(&b, " %s |", short(d))
		}
		b.WriteByte('\n')
	}
	if len(p.Turns) > 0 {
		b.WriteString("\n| turn | ok | input tokens | cache hit rate | first token p50 | p95 |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n")
		for _, t := range p.Turns {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(t.fields(), " | "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fields returns what the tables say of a turn.
func (t *TurnReport) fields() []string {
	rate := "unknown"
	if t.Tokens.CacheHitRate != nil {
		rate = fmt.Sprintf("%.1f %%", *t.Tokens.CacheHitRate*100)
	}
	return []string{
		strconv.Itoa(t.Turn), strconv.Itoa(t.Requests.OK), strconv.Itoa(t.Tokens.Input), rate,
		short(t.TTFT.Percentile(50)), short(t.TTFT.Percentile(95)),
	}
}

// WriteText writes the report as plain text for people.
func (p *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, l := range p.lines() {
		fmt.Fprintf(t, "%s\t%s\n", l[0], l[1])
	}
	flush := t.Flush()
	b.WriteByte('\n')
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "latency\tp50\tp95\tp99\tmax\tmean\t")
	for _, r := range p.rows() {
		if r.h.Count() == 0 {
			continue
		}
		fmt.Fprint(t, r.what)
		for _, d := range r.h.figures() {
			fmt.Fprintf(t, "\t%s", short(d))
		}
		fmt.Fprintln(t, "\t")
	}
	if err := errors.Join(flush, t.Flush()); err != nil {
		return err
	}
	if len(p.Turns) > 0 {
		b.WriteByte('\n')
		t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "turn\tok\tinput tokens\tcache hit rate\tfirst token p50\tp95\t")
		for _, turn := range p.Turns {
			fmt.Fprintln(t, strings.Join(turn.fields(), "\t")+"\t")
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lines returns pairs of a name and a text. The first tells whether the figures
// that follow can be trusted.
func (p *Report) lines() [][2]string {
	r := p.Requests
	lines := [][2]string{
		{"honesty", p.Generator.Note},
		{"run", fmt.Sprintf("%s, %s, ended: %s", p.Run.URL, p.Run.Schedule, p.Run.Ended)},
		{"workload", fmt.Sprintf("%s, %s, hash %s, seed %d", p.Workload.Endpoint, p.Workload.Prompts, p.Workload.Hash, p.Workload.Seed)},
		{"requests", fmt.Sprintf("%d due, %d sent, %d ok, %d error, %d cancelled, %d dropped", r.Due, r.Sent, r.OK, r.Failed, r.Cancelled, r.Dropped)},
	}
	if n := p.Outside.Due; n > 0 {
		lines = append(lines, [2]string{"not counted", fmt.Sprintf("%d due in %s of warm-up and %s of tail", n, seconds(p.Run.WarmUp), seconds(p.Run.Tail))})
	}
	if len(p.Errors) > 0 {
		var s []string
		for _, class := range slices.Sorted(maps.Keys(p.Errors)) {
			one := fmt.Sprintf("%d × %s", p.Errors[class], class)
			if e := p.Examples[class]; e != "" {
				one += ", such as " + strconv.Quote(e)
			}
			s = append(s, one)
		}
		lines = append(lines, [2]string{"errors", strings.Join(s, "; ")})
	}
	cache := "cache hit rate unknown: the server does not tell"
	if rate := p.Tokens.CacheHitRate; rate != nil {
		cache = fmt.Sprintf("cache hit rate %.1f %%", *rate*100)
	}
	chunks := ""
	if n := p.Tokens.PerChunk; n != nil {
		chunks = fmt.Sprintf(" (%.2f a chunk)", *n)
	}
	lines = append(lines,
		[2]string{"tokens", fmt.Sprintf("%d input, %d cached (%s), %d output%s", p.Tokens.Input, p.Tokens.Cached, cache, p.Tokens.Output, chunks)},
	)
	if c := p.Recorded; c != nil {
		left := ""
		if c.LeftOut > 0 {
			left = fmt.Sprintf("; %d of %d requests were left out, since their lengths are not known", c.LeftOut, c.LeftOut+c.Requests)
		}
		t := c.Tokens
		lines = append(lines, [2]string{"recorded", fmt.Sprintf("%d input, %d cached (cache hit rate %.1f %%), %d output%s", t.Input, t.Cached, t.CacheHitRate*100, t.Output, left)})
	}
	lines = append(lines,
		[2]string{"rates", fmt.Sprintf("%.2f requests/s, %.1f input tokens/s, %.1f output tokens/s over %s", p.Rates.Requests, p.Rates.InputTokens, p.Rates.OutputTokens, seconds(p.Rates.Seconds))},
	)
	if g := p.Goodput; g != nil {
		lines = append(lines, [2]string{"goodput", fmt.Sprintf("%.1f %% of requests, %.2f/s met %s", g.Share*100, g.PerSecond, g.Objective)})
	}
	switch c := p.Reconciliation; {
	case c != nil:
		lines = append(lines, [2]string{"server says", fmt.Sprintf("%s (prompt %d here, %g there; predicted %d here, %g there)", c.Note, c.Prompt.Client, c.Prompt.Server, c.Predicted.Client, c.Predicted.Server)})
	case p.NotReconciled != "":
		lines = append(lines, [2]string{"server says", "nothing: " + p.NotReconciled})
	}
	switch e := p.Energy; {
	case e != nil:
		lines = append(lines, [2]string{"energy", e.String()})
	case p.NoEnergy != "" && p.NoEnergy != NoGPUMetrics:
		lines = append(lines, [2]string{"energy", "unknown: " + p.NoEnergy})
	}
	return lines
}

// Plain writes a duration as people do in a configuration: 1h, not 1h0m0s.
func Plain(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func seconds(s float64) string { return short(time.Duration(s * float64(time.Second))) }

// short formats a duration with about three significant digits.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	default:
		return d.Round(time.Microsecond).String()
	}
}
