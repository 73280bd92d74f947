// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package freeport

import (
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFind_GivesThePreferredPortOnlyWhereItIsFree(t *testing.T) {
	preferred := For(t)
	port, err := Find(preferred)
	require.NoError(t, err)
	assert.Equal(t, preferred, port)

	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", preferred))
	require.NoError(t, err)
	defer l.Close()
	port, err = Find(preferred)
	require.NoError(t, err)
	assert.NotEqual(t, preferred, port)
	assert.Positive(t, port)
}
