// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package gpu // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/gpu"

import (
	"slices"
	"sync"

	"go.uber.org/zap"
)

// sessionLog logs what concerns all receivers of a session, through that of the
// one that joined first.
type sessionLog struct {
	mu   sync.Mutex
	logs []*zap.Logger // in the order of joining
	// failing outlives a connection: while a GPU is lost, the driver is opened again
	// and again.
	failing map[failure]bool
}

// failure is that of one function of the driver, on one GPU if it concerns one.
type failure struct{ call, gpu string }

// failed logs a failure when it begins.
func (l *sessionLog) failed(f failure, message string) {
	l.mu.Lock()
	known := l.failing[f]
	if l.failing == nil {
		l.failing = map[failure]bool{}
	}
	l.failing[f] = true
	l.mu.Unlock()
	if !known {
		l.logger().Warn(message, zap.String("call", f.call), zap.String("gpu", f.gpu))
	}
}

// recovered logs the end of a failure, if its beginning was logged.
func (l *sessionLog) recovered(f failure, message string) {
	l.mu.Lock()
	known := l.failing[f]
	delete(l.failing, f)
	l.mu.Unlock()
	if known {
		l.logger().Info(message, zap.String("call", f.call), zap.String("gpu", f.gpu))
	}
}

func (l *sessionLog) join(log *zap.Logger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logs = append(l.logs, log)
}

func (l *sessionLog) leave(log *zap.Logger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.logs, log); i >= 0 {
		l.logs = slices.Delete(l.logs, i, i+1)
	}
}

func (l *sessionLog) logger() *zap.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.logs) == 0 {
		return zap.NewNop()
	}
	return l.logs[0]
}
