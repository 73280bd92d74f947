// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package loadgenextension // import "github.com/llamatelemetry/otelcol-llamacpp/loadgenextension"

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"

	"github.com/llamatelemetry/otelcol-llamacpp/loadgenextension/internal/metadata"
)

// NewFactory returns the factory of the extension of type loadgen.
func NewFactory() extension.Factory {
	return extension.NewFactory(
		metadata.Type,
		func() component.Config { return newDefaultConfig() },
		func(_ context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
			return newExtension(cfg.(*Config), set), nil
		},
		metadata.ExtensionStability,
	)
}
