// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pinned

import (
	"net/http"
	"testing"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
)

// startTimeout is for a busy machine.
const startTimeout = 40 * time.Second

// AwaitReady waits until a process of these programs answers 200 at a URL. One
// that ends or is not ready in time ends the test.
func (p *Programs) AwaitReady(tb testing.TB, process *child.Process, log *child.Output, url string) {
	tb.Helper()
	for end := time.Now().Add(startTimeout); !ready(url); time.Sleep(20 * time.Millisecond) {
		select {
		case <-process.Exited():
			tb.Fatalf("%s ended at its start: %v\n%s", p.Name, process.State(), log.String())
		default:
		}
		if time.Now().After(end) {
			tb.Fatalf("%s is not ready within %s", p.Name, startTimeout)
		}
	}
}

func ready(url string) bool {
	r, err := http.Get(url)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	return r.StatusCode == http.StatusOK
}
