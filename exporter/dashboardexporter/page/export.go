// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package page // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/page"

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Kinds of files.
const (
	// KindView is a view of servers: Catalogue and Snapshot.
	KindView = "view"
	// KindLoad is what load tests measured: Reports.
	KindLoad = "load"
)

// Data is what an exported file shows. All of it is anything that encodes as the
// JSON that the page gets from a collector.
type Data struct {
	Kind string `json:"kind"`
	// Catalogue is what GET /live/catalogue answers.
	Catalogue any `json:"catalogue,omitempty"`
	// Snapshot is what GET /live/snapshot answers.
	Snapshot any `json:"snapshot,omitempty"`
	// Reports are load runs as `llamaload run --json` writes them.
	Reports []any `json:"reports,omitempty"`
}

// Export writes the data as one HTML file that needs nothing else, neither a
// collector nor a network: the modules of the page, its style and the data are in
// it. It works from a disk, where a module has no address that another could name;
// therefore all import each other by bare names, which a map turns into data: URLs.
func Export(w io.Writer, data Data) error {
	if data.Kind != KindView && data.Kind != KindLoad {
		return fmt.Errorf("export of %q: want %s or %s", data.Kind, KindView, KindLoad)
	}
	html, err := files.ReadFile("www/index.html")
	if err != nil {
		return err
	}
	importMap, err := inlineImportMap()
	if err != nil {
		return err
	}
	content, err := inlineJSON(data)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	plot, err := script("www/vendor/uPlot.iife.min.js")
	if err != nil {
		return err
	}
	main := []byte(`import "#page/main.js";`)
	var style []byte
	for _, name := range []string{"www/vendor/uPlot.min.css", "www/page.css"} {
		css, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		style = append(append(style, css...), '\n')
	}
	meta := fmt.Sprintf("default-src 'none'; script-src %s %s %s data:; style-src %s; img-src data:; "+
		"require-trusted-types-for 'script'; trusted-types lit-html; base-uri 'none'; form-action 'none'",
		hash(importMap), hash(plot), hash(main), hash(style))

	out := string(html)
	for _, r := range []struct{ old, new string }{
		{`<meta charset="utf-8">`, `<meta charset="utf-8">` + "\n" + `<meta http-equiv="Content-Security-Policy" content="` + meta + `">`},
		{`<link rel="stylesheet" href="assets/vendor/uPlot.min.css">` + "\n", ""},
		{`<link rel="stylesheet" href="assets/page.css">`, "<style>" + string(style) + "</style>"},
		{`<script type="importmap">` + importMapMark + `</script>`, `<script type="importmap">` + string(importMap) + `</script>`},
		{`<script defer src="assets/vendor/uPlot.iife.min.js"></script>`, "<script>" + string(plot) + "</script>"},
		{`<script type="module" src="assets/main.js"></script>` + "\n", ""},
		{"</body>", `<script type="application/json" id="data">` + string(content) + "</script>\n" +
			`<script type="module">` + string(main) + "</script>\n</body>"},
	} {
		if strings.Count(out, r.old) != 1 {
			return fmt.Errorf("index.html has no single %s", r.old)
		}
		out = strings.Replace(out, r.old, r.new, 1)
	}
	_, err = io.WriteString(w, out)
	return err
}

// inlineImportMap has the modules themselves in the place of their addresses.
func inlineImportMap() ([]byte, error) {
	names, err := modules()
	if err != nil {
		return nil, err
	}
	urls := map[string]string{}
	for _, name := range append(names, "main.js") {
		code, err := files.ReadFile("www/" + name)
		if err != nil {
			return nil, err
		}
		urls["#page/"+name] = "data:text/javascript;charset=utf-8;base64," + base64.StdEncoding.EncodeToString(code)
	}
	return json.Marshal(map[string]any{"imports": urls})
}

// script is a file's code as the content of an element.
func script(name string) ([]byte, error) {
	code, err := files.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(bytes.ToLower(code), []byte("</script")) || bytes.Contains(code, []byte("<!--")) {
		return nil, errors.New(name + ": it would end the element that it is put into")
	}
	return code, nil
}

// inlineJSON is JSON as the content of an element: what could end the element, or
// begin a comment, is escaped.
func inlineJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	// The encoder escapes <, > and & by default; so does Marshal for what a
	// json.RawMessage holds.
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}
