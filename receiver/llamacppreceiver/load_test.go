// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// requests sends random requests from several clients until the context ends:
// prompts and answers of all lengths, some cut off by the client.
func requests(ctx context.Context, url string) {
	var wg sync.WaitGroup
	for client := range uint64(7) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(client, 3))
			for ctx.Err() == nil {
				c, cancel := context.WithCancel(ctx)
				if r.IntN(4) == 0 {
					time.AfterFunc(time.Duration(r.IntN(300))*time.Millisecond, cancel)
				}
				prompt := fmt.Sprint(r.Uint64()) + strings.Repeat(" word", 1+r.IntN(200))
				request(c, url, prompt, 1+int(r.ExpFloat64()*60))
				cancel()
				time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
}

// request streams one completion to its end, or the context's.
func request(ctx context.Context, url, prompt string, tokens int) {
	_, _ = (&llamatest.Client{BaseURL: url}).Complete(ctx, llamatest.Request{Prompt: prompt, MaxTokens: tokens, Stream: true})
}
