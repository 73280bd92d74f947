// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package watch // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/watch"

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/llamaserver"
)

// connection is the way to one server, on which all reads take turns.
type connection struct {
	client    *llamaserver.Client
	timeout   time.Duration   // of one read
	life      context.Context // of all reads
	end       context.CancelFunc
	wg        sync.WaitGroup
	line      chan struct{} // holds a token while the connection is in use
	processes atomic.Int64  // seen behind the address so far
}

func newConnection(client *llamaserver.Client, timeout time.Duration) *connection {
	c := &connection{client: client, timeout: timeout, line: make(chan struct{}, 1)}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// close waits until the reads that end has cut off are over.
func (c *connection) close() {
	c.wg.Wait()
	c.client.CloseIdle()
}

// nextProcess numbers a process that has not been seen before.
func (c *connection) nextProcess() int { return int(c.processes.Add(1)) }

// turn is how long a read waits for another to be done with the connection
// before it opens a second one.
const turn = 50 * time.Millisecond

// queue waits for a turn to use the one connection, but not for long, and
// returns the function that gives it back.
func (c *connection) queue() (leave func()) {
	leave = func() { <-c.line }
	select {
	case c.line <- struct{}{}:
		return leave
	default:
	}
	t := time.NewTimer(turn)
	defer t.Stop()
	select {
	case c.line <- struct{}{}:
		return leave
	case <-t.C:
	case <-c.life.Done():
	}
	return func() {}
}
