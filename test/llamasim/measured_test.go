// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamasim

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/tidwall/gjson"
)

// What joins an answer with the log's request: both have the server's own
// measurements, which it holds in whole microseconds.
func TestServer_AnswerAndLogHaveTheSameTimings(t *testing.T) {
	var log bytes.Buffer
	s, url := start(t, Options{TokensPerSecond: 977, PromptTokensPerSecond: 7919, Log: &log})
	var want []string
	for range 10 {
		_, body := post(t, url+"/completion", `{"prompt":"the of and to in is","n_predict":7,"cache_prompt":false}`)
		for _, part := range []struct{ name, in string }{{"prompt", "prompt eval time"}, {"predicted", "       eval time"}} {
			ms := gjson.Get(body, "timings."+part.name+"_ms").Float()
			assert.InDelta(t, math.Round(ms*1e3), ms*1e3, 1e-6, "%s in microseconds", part.name)
			want = append(want, fmt.Sprintf("%s = %10.2f ms / %5d tokens", part.in, ms, gjson.Get(body, "timings."+part.name+"_n").Int()))
		}
	}
	s.Close()
	for _, line := range want {
		assert.Contains(t, log.String(), line)
	}
}
