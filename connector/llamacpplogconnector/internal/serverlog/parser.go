// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package serverlog // import "github.com/llamatelemetry/otelcol-llamacpp/connector/llamacpplogconnector/internal/serverlog"

// Parser reads the log of one server, line by line in the order in which they
// were written. Its zero value is ready. It is not safe for concurrent use.
type Parser struct{}

// Parse reads one log record, with or without its final newline, and calls
// yield for each event in it: as a rule one, more where a record holds several
// lines, and none for what is no line of the server's log. The Event and its
// strings are valid only during the call.
func (p *Parser) Parse(record string, yield func(*Event)) {}
