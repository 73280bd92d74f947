// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package llamacpplogconnector // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector"

import "os"

// fileIDOf cannot tell a file that was renamed from another one here: records
// that are read again are recognized by their requests alone.
func fileIDOf(os.FileInfo) (fileID, bool) { return fileID{}, false }
