// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"time"

	"github.com/tidwall/gjson"
)

// blockTokens is the number of tokens of a block in Mooncake's format.
const blockTokens = 512

// mooncake reads the lines of a trace in Mooncake's format.
type mooncake struct {
	window Window
	last   time.Duration
	rec    Recording
	// seen has the last request that begins with a list of blocks, by a hash of it.
	seen map[uint64]int32
	hash maphash.Seed
}

func newMooncake(w Window) *mooncake {
	return &mooncake{window: w, rec: Recording{Format: Mooncake}, seen: map[uint64]int32{}, hash: maphash.MakeSeed()}
}

func (p *mooncake) line(b []byte) error {
	if !gjson.ValidBytes(b) {
		return errNotJSON
	}
	v := gjson.GetManyBytes(b, "timestamp", "input_length", "output_length", "hash_ids")
	if v[0].Type != gjson.Number {
		return errors.New(`no "timestamp": want milliseconds from the start`)
	}
	at, err := after(p.last, v[0].Float()/1e3)
	if err != nil {
		return err
	}
	if p.last = at; !p.window.has(at) {
		return nil
	}
	q := Request{Due: at - p.window.From}
	if q.Input = tokens(v[1]); q.Input < 1 {
		return errors.New(`no "input_length": want 1 token or more`)
	}
	if q.Output = tokens(v[2]); q.Output < 0 {
		return errors.New(`no "output_length": want 0 tokens or more`)
	}
	q.Output = max(1, q.Output) // a server makes one even where none is wanted
	if len(p.rec.Requests) == math.MaxInt32 {
		return errors.New("too many requests: split the file")
	}
	return p.add(q, v[3])
}

// add adds a request, whose prompt is like earlier ones as far as its blocks are.
func (p *mooncake) add(q Request, ids gjson.Result) error {
	var (
		n            = int32(len(p.rec.Requests))
		blocks       = int32(0)
		from, shared = int32(-1), int32(0)
		list         maphash.Hash
	)
	list.SetSeed(p.hash)
	ids.ForEach(func(_, id gjson.Result) bool {
		_, _ = list.WriteString(id.Raw) // never fails
		_ = list.WriteByte(',')
		key := list.Sum64()
		if last, ok := p.seen[key]; ok {
			from, shared = last, shared+1
		}
		p.seen[key] = n
		blocks++
		return blocks <= maxTokens/blockTokens
	})
	if most := (q.Input + blockTokens - 1) / blockTokens; blocks > most {
		return fmt.Errorf("%d hash_ids for %d tokens: want %d at most, each of %d tokens", blocks, q.Input, most, blockTokens)
	}
	p.rec.add(q, from, shared*blockTokens)
	// With a cache that forgets nothing, all that is shared would be cached, except
	// for the last token, which a server always computes.
	added := &p.rec.Requests[n]
	added.Cached = min(added.Shared, added.Input-1)
	return nil
}

func (p *mooncake) end() (*Recording, error) {
	rec := p.rec // without what was seen
	return &rec, nil
}

// tokens returns a number of tokens, or -1 if it is none.
func tokens(v gjson.Result) int32 {
	n := v.Float() // of a string, as OTLP has it, also
	if v.Type != gjson.Number && v.Type != gjson.String || !(n >= 0 && n <= maxTokens) {
		return -1
	}
	return int32(n)
}
