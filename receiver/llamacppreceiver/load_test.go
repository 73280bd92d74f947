// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// requests sends random requests from several clients until the context ends:
// prompts and answers of all lengths, some cut off by the client.
func requests(ctx context.Context, url string) {
	var wg sync.WaitGroup
	for client := range uint64(7) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(client, 3))
			for ctx.Err() == nil {
				prompt := bytes.Repeat([]byte("word "), 1+r.IntN(200))
				c, cancel := context.WithCancel(ctx)
				if r.IntN(4) == 0 {
					time.AfterFunc(time.Duration(r.IntN(300))*time.Millisecond, cancel)
				}
				request(c, url, fmt.Sprint(r.Uint64())+" "+string(prompt), 1+int(r.ExpFloat64()*60))
				cancel()
				time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
}

// request streams one completion to its end, or the context's.
func request(ctx context.Context, url, prompt string, tokens int) {
	body := fmt.Sprintf(`{"prompt":%q,"n_predict":%d,"stream":true}`, prompt, tokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/completion", bytes.NewBufferString(body))
	if err != nil {
		return
	}
	t := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}
