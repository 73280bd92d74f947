// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package proxied

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzMatch has requests of which many are alike end at a proxy, and asks for
// others. Whatever they are: none is taken twice, what is taken is one that may be
// the request, and none is overlooked.
func FuzzMatch(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seed, uint8(40))
	}
	f.Fuzz(func(t *testing.T, seed uint64, n uint8) {
		random := rand.New(rand.NewPCG(seed, 1))
		r := &Reader{newRegistry()}
		var free []Request
		for i := range int(n) {
			// A proxy sees ends in their order, but for the blink between looking
			// at the clock and saying so.
			ended := at(float64(i)*0.2 + random.Float64()*0.3)
			began := ended.Add(-time.Duration(random.IntN(5000)) * time.Millisecond)
			in, out := random.IntN(4)-1, random.IntN(4)-1
			whole := random.IntN(3) > 0
			timings := ""
			if random.IntN(2) == 0 {
				timings = strconv.Itoa(random.IntN(4))
			}
			if random.IntN(2) == 0 {
				p := Request{
					Arrived: began, Ended: ended, Timings: timings,
					InputTokens: in, OutputTokens: out, Completed: whole, Span: span(strconv.Itoa(i)),
				}
				r.in.begin(key, began).End(p, true)
				free = append(free, p)
				continue
			}
			l := Logged{Launched: began, Ended: ended, Timings: timings, InputTokens: in, OutputTokens: out, Completed: whole}
			found, ok := r.Match(context.Background(), key, l, time.Time{})
			var same, may []Request
			for _, p := range free {
				if l.Timings != "" && p.Timings == l.Timings {
					same = append(same, p)
				}
				if mayBe(p, l) {
					may = append(may, p)
				}
			}
			if len(same) > 0 {
				may = same
			}
			require.Equal(t, len(may) > 0, ok)
			if ok {
				assert.Contains(t, may, found)
				for i, p := range free {
					if p.Span == found.Span {
						free = slices.Delete(free, i, i+1)
						break
					}
				}
			}
		}
	})
}

// mayBe says it in the words of the package: not by timings, but by times and
// tokens.
func mayBe(p Request, l Logged) bool {
	if p.Completed && p.Timings != "" {
		return false
	}
	if p.Arrived.Sub(l.Launched) > 100*time.Millisecond || p.Ended.Sub(l.Ended) > time.Second {
		return false
	}
	if p.Completed {
		return l.Ended.Sub(p.Ended) <= time.Second &&
			(p.InputTokens == l.InputTokens || p.InputTokens == -1 || l.InputTokens == -1) &&
			(p.OutputTokens == l.OutputTokens || p.OutputTokens == -1 || l.OutputTokens == -1)
	}
	late := l.Ended.Sub(p.Ended)
	return !l.Completed || !l.Launched.After(p.Ended) && 0 <= late && late <= time.Second
}
