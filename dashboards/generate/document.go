// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/llamatelemetry/otelcol-llamacpp/dashboards"
)

const (
	begin = "<!-- begin list of panels: go generate ./dashboards -->\n"
	end   = "<!-- end list of panels -->\n"
)

// document puts the list of panels between its marks in a page.
func document(c *dashboards.Catalogue, file string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, found := bytes.Cut(page, []byte(begin))
	_, after, closed := bytes.Cut(rest, []byte(end))
	if !found || !closed {
		return fmt.Errorf("%s: the marks of the list of panels are missing: %q, %q", file, begin, end)
	}
	var list bytes.Buffer
	sources := map[string]string{}
	for _, s := range c.Sources {
		sources[s.ID] = s.Title
	}
	for _, g := range c.Groups {
		fmt.Fprintf(&list, "\n### %s\n\n| panel | unit | what it means | needs |\n| --- | --- | --- | --- |\n", g.Title)
		for _, p := range c.Panels {
			if p.Group != g.ID {
				continue
			}
			title := p.Title
			if p.Estimate {
				title += " (estimate)"
			}
			var needs []string
			for _, s := range p.Sources {
				needs = append(needs, sources[s])
			}
			fmt.Fprintf(&list, "| %s | %s | %s | %s |\n", title, p.Unit, p.Help, strings.Join(needs, ", or "))
		}
	}
	list.WriteString("\n### Sources\n\n| source | where it does not deliver |\n| --- | --- |\n")
	for _, s := range c.Sources {
		fmt.Fprintf(&list, "| %s | %s |\n", s.Title, s.Cure)
	}
	if len(c.Unshown) > 0 {
		list.WriteString("\n### Metrics that are on no panel\n\n| metric | why |\n| --- | --- |\n")
		for _, u := range c.Unshown {
			fmt.Fprintf(&list, "| `%s` | %s |\n", u.Metric, u.Why)
		}
	}
	list.WriteByte('\n')
	text := bytes.Join([][]byte{before, []byte(begin), list.Bytes(), []byte(end), after}, nil)
	return os.WriteFile(file, text, 0o644) //nolint:gosec // to be read by all
}
