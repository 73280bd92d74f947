// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverresource

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
)

func TestMemory_HasWhatWasKnownLast(t *testing.T) {
	key := Key{Service: "llama-server", Instance: "localhost:8081"}
	resource := pcommon.NewResource()
	resource.Attributes().PutStr(ModelAttribute, "qwen")
	var m, other Memory
	_, ok := m.Of(key)
	require.False(t, ok)
	withdraw := Publish(key, resource)
	_, ok = m.Of(key)
	require.True(t, ok)
	withdraw()
	r, ok := m.Of(key)
	require.True(t, ok)
	assert.Equal(t, "qwen", ModelName(r))
	_, ok = other.Of(key)
	assert.False(t, ok, "it has never known it")
	newer := pcommon.NewResource()
	newer.Attributes().PutStr(ModelAttribute, "llama")
	defer Publish(key, newer)()
	r, _ = m.Of(key)
	assert.Equal(t, "llama", ModelName(r), "the server has another model")
}

func TestPublish_OnesWithdrawalLeavesTheOthers(t *testing.T) {
	key := Key{Service: "llama-server", Instance: "localhost:8080"}
	resource := func(name string) pcommon.Resource {
		r := pcommon.NewResource()
		r.Attributes().PutStr("name", name)
		return r
	}
	known := func() string {
		r, ok := Of(key)
		if !ok {
			return ""
		}
		name, _ := r.Attributes().Get("name")
		return name.Str()
	}
	require.Empty(t, known())
	first := Publish(key, resource("first"))
	second := Publish(key, resource("second"))
	assert.Equal(t, "second", known(), "the latest")
	second()
	assert.Equal(t, "first", known())
	second()
	assert.Equal(t, "first", known(), "withdrawing twice is withdrawing once")
	first()
	assert.Empty(t, known())
	assert.NotContains(t, published, key)
}
