// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamalog

import "time"

// Request is a request in its slot.
type Request struct {
	Slot int
	Task int64
}

// slot adds a line about the request.
func (l *Log) slot(at time.Duration, r Request, level, function, format string, args ...any) {
	l.line(at, "%s slot %12s: id %2d | task %d | "+format, append([]any{level, function, r.Slot, r.Task}, args...)...)
}

// Slot is the state of a slot when a request gets it.
type Slot struct {
	// Prompt is the length of the request's prompt, and Held that of what the
	// slot holds, of which the first Common tokens are the same.
	Prompt, Common, Held int
	// Best says that the slot was chosen for what it held. Otherwise it is the
	// one that was not used for longest: since LastUsed, negative for never.
	Best     bool
	LastUsed time.Duration
}

// Launch says that a request gets a slot.
func (l *Log) Launch(at time.Duration, r Request, slot Slot) {
	free := Request{r.Slot, -1}
	if slot.Best {
		l.slot(at, free, "I", "get_availabl", "selected slot by LCP similarity, f_sim_best = %.3f (> 0.100 thold), f_keep = %.3f",
			float64(slot.Common)/float64(slot.Prompt), float64(slot.Common)/float64(slot.Held))
	} else {
		lastUsed := int64(-1)
		if slot.LastUsed >= 0 {
			lastUsed = slot.LastUsed.Microseconds()
		}
		l.slot(at, free, "I", "get_availabl", "selected slot by LRU, n_tokens = %d, t_last = %d", slot.Held, lastUsed)
	}
	l.slot(at, r, "I", "launch_slot_", "processing task, is_child = 0")
	if slot.Common == slot.Prompt {
		l.slot(at, r, "W", "operator()", "need to evaluate at least 1 token for each active slot (n_past = %d, task.n_tokens() = %d)", slot.Common, slot.Prompt)
		l.slot(at, r, "W", "operator()", "n_past was set to %d", slot.Common-1)
	}
	l.flush()
}

// PromptProgress says how far a prompt is: how many of its tokens were processed,
// without those from the cache, in the time since its launch, and which part of
// the whole that is, with those from the cache.
func (l *Log) PromptProgress(at time.Duration, r Request, processed int, progress float64, took time.Duration) {
	l.slot(at, r, "I", "print_timing", "prompt processing, n_tokens = %6d, progress = %.2f, t = %6.2f s / %.2f tokens per second",
		processed, progress, took.Seconds(), float64(processed)/took.Seconds())
	l.flush()
}

// GenerationProgress says how far an answer is: how many tokens it has and the
// time since the first one; and how many came since the line before, and the time
// since then.
func (l *Log) GenerationProgress(at time.Duration, r Request, generated int, took time.Duration, lately int, latelyTook time.Duration) {
	l.slot(at, r, "I", "print_timing", "n_gen = %6d, tg = %6.2f t/s, tg_3s = %6.2f t/s",
		generated, float64(generated-1)/took.Seconds(), float64(lately)/latelyTook.Seconds())
	l.flush()
}

// Timings are what a request took: the prompt tokens that were processed, without
// those from the cache, and the tokens generated, from the first to the last.
type Timings struct {
	PromptTokens, Tokens   int
	Prompt, Generation     time.Duration
	GraphsReused, Sequence int // of the whole process, and tokens in the slot at the end
	Truncated              bool
	// Of speculative decoding: how often tokens were drafted, and how many tokens
	// were drafted and accepted; 0 without it.
	Drafts, Drafted, Accepted int
}

// Finish says that a request has come to its end, and what it took.
func (l *Log) Finish(at time.Duration, r Request, t Timings) {
	prompt, generation := milliseconds(t.Prompt), milliseconds(t.Generation)
	l.timing(at, r, "prompt eval time", prompt, t.PromptTokens, t.PromptTokens)
	l.timing(at, r, "       eval time", generation, t.Tokens, t.Tokens-1)
	l.slot(at, r, "I", "print_timing", "      total time = %10.2f ms / %5d tokens", prompt+generation, t.PromptTokens+t.Tokens)
	l.slot(at, r, "I", "print_timing", "   graphs reused = %10d", t.GraphsReused)
	l.slot(at, r, "I", "print_timing", "  graph reallocs = %10d    / %5d        (same size) / (changed size)", 0, 0)
	if t.Drafted > 0 {
		l.slot(at, r, "I", "print_timing", "draft acceptance = %.5f (%5d accepted / %5d generated), mean len = %5.2f",
			float64(t.Accepted)/float64(t.Drafted), t.Accepted, t.Drafted, 1+float64(t.Accepted)/float64(t.Drafts))
	}
	l.release(at, r, t.Sequence, t.Truncated)
	l.flush()
}

func (l *Log) timing(at time.Duration, r Request, name string, ms float64, tokens, steps int) {
	each, speed := 0.0, 0.0
	if steps > 0 {
		each, speed = ms/float64(steps), float64(steps)*1000/ms
	}
	l.slot(at, r, "I", "print_timing", "%s = %10.2f ms / %5d tokens (%8.2f ms per token, %8.2f tokens per second)", name, ms, tokens, each, speed)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Release says that a request that was cancelled or refused leaves its slot.
// The slot keeps a sequence of tokens.
func (l *Log) Release(at time.Duration, r Request, sequence int) {
	l.release(at, r, sequence, false)
	l.flush()
}

func (l *Log) release(at time.Duration, r Request, sequence int, truncated bool) {
	end := 0
	if truncated {
		end = 1
	}
	l.slot(at, r, "I", "release", "stop processing: n_tokens = %d, truncated = %d", sequence, end)
}
