// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// files are the flags whose values shells complete as names of files.
var files = []string{"prompts", "replay", "ca-file", "cert-file", "key-file", "json", "csv", "markdown", "html", "requests", "resume"}

// choices are the values of flags that have a few.
var choices = map[string][]cobra.Completion{
	"endpoint": {"chat", "completions", "responses", "messages", "completion", "embeddings"},
	"gaps":     {"constant", "poisson", "gamma"},
}

// complete tells shells what the values of a command's flags can be.
func complete(c *cobra.Command) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if slices.Contains(files, f.Name) {
			return
		}
		if err := c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(choices[f.Name], cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // unreachable: the flag is there
		}
	})
}
