// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamaserver // import "github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"

import (
	"errors"
	"fmt"

	"github.com/tidwall/gjson"
)

// Unknown stands in a Slot for a number that the build leaves out.
const Unknown = -1

// Slot is one of a server's parallel sequences.
type Slot struct {
	ID      int
	Context int  // tokens that it can hold
	Busy    bool // holds a request
	// Task is the number of the request that the slot holds, or held last;
	// unique and rising in the life of a process. Unknown on a slot that has had
	// none.
	Task int64
	// Tokens is how many the slot holds for its request: prompt, as far as its
	// batches have been started, and generated ones.
	Tokens int64
	// Processed is how many prompt tokens have been computed for the request,
	// cached ones not counted. It grows batch by batch.
	Processed int64
	// Decoded is how many tokens have been generated for the request. On a
	// free slot it is 0 or the count of its last request, depending on the build.
	Decoded int64
	// Remaining is how many more the request may generate; Unknown also when it
	// has no limit.
	Remaining int64
}

var errNotSlots = errors.New("not a list of slots: is endpoint llama-server's address?")

// ParseSlots reads a body of /slots: a JSON array of objects.
func ParseSlots(body []byte) ([]Slot, error) {
	if !gjson.ValidBytes(body) {
		return nil, errNotSlots
	}
	list := gjson.ParseBytes(body)
	if !list.IsArray() {
		return nil, errNotSlots
	}
	slots := make([]Slot, 0, 8)
	var err error
	list.ForEach(func(_, v gjson.Result) bool {
		if !v.IsObject() {
			err = fmt.Errorf("slot %d is no object: %w", len(slots), errNotSlots)
			return false
		}
		slots = append(slots, parseSlot(v, len(slots)))
		return true
	})
	return slots, err
}

func parseSlot(v gjson.Result, index int) Slot {
	s := Slot{ID: index, Task: Unknown, Tokens: Unknown, Processed: Unknown, Decoded: Unknown, Remaining: Unknown}
	v.ForEach(func(key, v gjson.Result) bool {
		switch key.Str {
		case "id":
			s.ID = int(count(v))
		case "n_ctx":
			s.Context = int(max(count(v), 0))
		case "is_processing":
			s.Busy = v.Type == gjson.True
		case "state": // before is_processing came, 0 meant idle
			s.Busy = s.Busy || count(v) > 0
		case "id_task":
			s.Task = count(v)
		case "n_prompt_tokens":
			s.Tokens = count(v)
		case "n_prompt_tokens_processed":
			s.Processed = count(v)
		case "next_token":
			if v.IsArray() { // an object in older builds
				v = v.Get("0")
			}
			v.ForEach(func(key, v gjson.Result) bool {
				switch key.Str {
				case "n_decoded":
					s.Decoded = count(v)
				case "n_remain":
					s.Remaining = count(v)
				}
				return true
			})
		}
		return true
	})
	return s
}

// count reads a number of things. What is no number, negative or beyond what a
// float64 holds exactly is Unknown.
func count(v gjson.Result) int64 {
	if v.Type != gjson.Number || v.Num < 0 || v.Num > 1<<53 {
		return Unknown
	}
	return int64(v.Num)
}
