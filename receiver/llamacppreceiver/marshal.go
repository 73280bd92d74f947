// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package llamacppreceiver // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver"

import (
	"maps"
	"reflect"
	"sync"

	"go.opentelemetry.io/collector/confmap"
)

// settings is Config without its methods.
type settings Config

var defaults = sync.OnceValue(func() map[string]any {
	c := confmap.New()
	if err := c.Marshal(settings(*newDefaultConfig())); err != nil {
		return nil
	}
	return c.ToStringMap()
})

// Marshal implements confmap.Marshaler: it leaves out what has its default
// value. The Collector keeps the marshalled configuration as long as it runs,
// which for a fleet of a thousand receivers is most of what they hold.
func (cfg Config) Marshal(conf *confmap.Conf) error {
	all := confmap.New()
	if err := all.Marshal(settings(cfg)); err != nil {
		return err
	}
	return conf.Merge(confmap.NewFromStringMap(without(all.ToStringMap(), defaults())))
}

// without returns m less the entries that are the same in defaults.
func without(m, defaults map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		d, ok := defaults[k]
		inner, isMap := v.(map[string]any)
		innerDefaults, wasMap := d.(map[string]any)
		switch {
		case k == "scrapers" && isMap && !reflect.DeepEqual(v, d):
			// Those that it names run, and no others.
			maps.DeleteFunc(inner, func(_ string, v any) bool { return v == nil })
			out[k] = inner
		case isMap && wasMap:
			if rest := without(inner, innerDefaults); len(rest) > 0 {
				out[k] = rest
			}
		case !ok || !reflect.DeepEqual(v, d):
			out[k] = v
		}
	}
	return out
}
