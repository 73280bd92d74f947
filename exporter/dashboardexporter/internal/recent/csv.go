// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package recent // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/recent"

import (
	"encoding/csv"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// columns are those of the CSV: the JSON's names, in an order to read.
var columns = []string{
	"end", "server", "model", "outcome", "error", "slot", "task", "start", "first", "duration", "ttft", "wait",
	"prompt", "cached", "generated", "drafted", "accepted", "client", "proxied", "began", "client_name", "id", "trace",
}

// WriteCSV writes requests as CSV by RFC 4180, with a header. Times are by RFC
// 3339 in UTC, to the millisecond; a field of what is not known is empty.
func WriteCSV(to io.Writer, requests []Request) error {
	w := csv.NewWriter(to)
	w.UseCRLF = true
	_ = w.Write(columns) // Error, below, says it as well
	for i := range requests {
		r := &requests[i]
		_ = w.Write([]string{
			at(&r.End), plain(r.Server), plain(r.Model), plain(r.Outcome), plain(r.Error), known(r.Slot), known(r.Task),
			at(&r.Start), at(r.First), number(&r.Duration), number(r.TTFT), number(r.Wait),
			known(r.Prompt), known(r.Cached), known(r.Generated), whole(r.Drafted), whole(r.Accepted),
			strconv.FormatBool(r.Client), strconv.FormatBool(r.Proxied), at(r.Began), plain(r.ClientName), r.ID, r.Trace,
		})
	}
	w.Flush()
	return w.Error()
}

// plain keeps a spreadsheet from taking a text for a formula, which might send what
// is in the sheet elsewhere: model names and errors come from servers.
func plain(s string) string {
	if first, _ := utf8.DecodeRuneInString(s); strings.ContainsRune("=+-@\t\r\n|%＝＋－＠", first) {
		return "'" + s
	}
	return s
}

func at(ms *int64) string {
	if ms == nil {
		return ""
	}
	return time.UnixMilli(*ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func number(f *float64) string {
	if f == nil {
		return ""
	}
	return strconv.FormatFloat(*f, 'f', -1, 64)
}

func known(n int64) string {
	if n < 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func whole(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}
