// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package history // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/internal/history"

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
)

// builtin stands for Options.Rules in the list of rule files.
const builtin = "otelcol-llamacpp"

var labelsNone = labels.EmptyLabels()

// CheckRules checks a rule file.
func CheckRules(file string) error {
	_, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	return errors.Join(errs...)
}

// loader reads the built-in rules from memory and others from files. It
// implements rules.GroupLoader.
type loader struct {
	builtin []byte
	parser  parser.Parser
	log     *slog.Logger
}

var _ rules.GroupLoader = loader{}

func (l loader) Load(identifier string, ignoreUnknown bool, names model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	if identifier == builtin {
		return rulefmt.Parse(l.builtin, ignoreUnknown, names, l.parser, l.log)
	}
	return rulefmt.ParseFile(identifier, ignoreUnknown, names, l.parser, l.log)
}

func (l loader) Parse(query string) (parser.Expr, error) { return l.parser.ParseExpr(query) }

// Alert is a rule whose condition holds.
type Alert struct {
	Name        string
	Labels      map[string]string // without alertname
	Annotations map[string]string
	Since       time.Time
}

// Firing returns the alerts that fire, in a stable order. Those whose condition
// does not hold long enough yet are not among them.
func (h *History) Firing() []Alert {
	var firing []Alert
	for _, rule := range h.rules.AlertingRules() {
		for _, a := range rule.ActiveAlerts() {
			if a.State != rules.StateFiring {
				continue
			}
			set := a.Labels.Map()
			delete(set, labels.AlertName)
			firing = append(firing, Alert{Name: rule.Name(), Labels: set, Annotations: a.Annotations.Map(), Since: a.ActiveAt})
		}
	}
	slices.SortStableFunc(firing, func(a, b Alert) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Labels["instance"]+a.Labels["hw_id"], b.Labels["instance"]+b.Labels["hw_id"])
	})
	return firing
}
