// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package dashboardexporter

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"

	"github.com/llamatelemetry/otelcol-llamacpp/test/wrongconfig"
)

func TestConfig_DefaultIsValid(t *testing.T) {
	require.NoError(t, componenttest.CheckConfigStruct(newDefaultConfig()))
	require.NoError(t, newDefaultConfig().Validate())
}

// UPDATE=1 go test -run WrongSettings ./exporter/dashboardexporter writes what it says now.
func TestConfig_WrongSettingsSayWhatToWriteInstead(t *testing.T) {
	wrongconfig.Test(t, filepath.Join("testdata", "wrong.txt"), func() any { return newDefaultConfig() })
}
