// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package configcheck

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
)

type kitchen struct {
	Client  confighttp.ClientConfig           `mapstructure:",squash"`
	Key     configopaque.String               `mapstructure:"key"`
	Heat    heat                              `mapstructure:"heat"`
	Plates  int                               `mapstructure:"plates"`
	Cups    uint8                             `mapstructure:"cups"`
	Oven    configoptional.Optional[oven]     `mapstructure:"oven"`
	Recipes map[string]time.Duration          `mapstructure:"recipes"`
	Storage *component.ID                     `mapstructure:"storage"`
	Shelves []shelf                           `mapstructure:"shelves"`
	Lights  struct{ Top, Bottom lightSwitch } `mapstructure:"lights"`
	hidden  int
}

type shelf struct {
	Height int `mapstructure:"height"`
}

type oven struct {
	Minutes time.Duration `mapstructure:"minutes"`
	Fan     bool          `mapstructure:"fan"`
}

type lightSwitch struct {
	Enabled bool `mapstructure:"enabled"`
}

type heat string

func (heat) Want() string { return "low or high" }

func said(in map[string]any) []string {
	err := Section(confmap.NewFromStringMap(in), &kitchen{hidden: 1})
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

type m = map[string]any

func TestSection_AcceptsWhatTheDecoderDoes(t *testing.T) {
	for _, in := range []m{
		nil,
		{},
		{"endpoint": "http://h", "tls": m{"insecure": true}, "keepalive": m{"enabled": false}},
		{"headers": m{"X-Team": "a"}},
		{"headers": []any{m{"name": "X-Team", "value": "a"}}},
		{"auth": m{"authenticator": "bearertokenauth/2"}, "storage": "file_storage"},
		{"oven": nil, "lights": m{"top": nil}, "timeout": nil},
		{"oven": m{"enabled": true, "minutes": "5m", "fan": true}},
		{"timeout": 0, "idle_conn_timeout": time.Second},
		{"recipes": m{"egg": "5m", "ham": "1h"}},
		{"heat": "low", "key": "k", "plates": 4, "cups": 2},
		{"plates": 4.0},
		{"shelves": nil},
		{"shelves": []any{}},
		{"shelves": []any{m{"height": 3}, m{}}},
	} {
		assert.Empty(t, said(in), in)
		require.NoError(t, confmap.NewFromStringMap(in).Unmarshal(&kitchen{}, confmap.WithIgnoreUnused()), in)
	}
}

func TestSection_NamesAllThatIsWrong(t *testing.T) {
	assert.Equal(t, []string{
		"lights::top::enable: unknown setting: did you mean enabled?",
		"oven::fam: unknown setting: did you mean fan?",
		"oven::minutes: 5ns: has it a unit? e.g. 5s",
		"plates: is text: want a number",
		"recepes: unknown setting: did you mean recipes?",
		"tls::insecured: unknown setting: did you mean insecure?",
	}, said(m{
		"recepes": m{}, "plates": "four",
		"oven": m{"minutes": 5, "fam": true}, "lights": m{"top": m{"enable": true}}, "tls": m{"insecured": true},
	}))
}

func TestSection_LooksIntoLists(t *testing.T) {
	assert.Equal(t, []string{
		"shelves::1::hight: unknown setting: did you mean height?",
		"shelves::2::height: is text: want a number",
		"shelves::3: is a number: want a section with height",
	}, said(m{"shelves": []any{m{"height": 3}, m{"hight": 3}, m{"height": "three"}, 4}}))
}

func TestSection_FindsWhatStandsInTheWrongPlace(t *testing.T) {
	assert.Equal(t, []string{"oven::plates: unknown setting: did you mean plates?"}, said(m{"oven": m{"plates": 4}}))
	assert.Equal(t, []string{"fan: unknown setting: did you mean oven::fan?"}, said(m{"fan": true}))
	assert.Equal(t, []string{"oven::idle: unknown setting: want enabled, fan or minutes"}, said(m{"oven": m{"idle": 4}}), "and not idle_conn_timeout")
	assert.Equal(t, []string{"bottom: unknown setting: did you mean lights::bottom?"}, said(m{"bottom": nil}))
}

func TestSection_SaysWhatATypeWants(t *testing.T) {
	for want, in := range map[string]m{
		"heat: is a number: want low or high":                        {"heat": 5},
		"key: is a number: want text, in quotes":                     {"key": 5},
		"timeout: 0.5: has it a unit? e.g. 0.5s":                     {"timeout": 0.5},
		"oven: is true: want a section, {} for its defaults":         {"oven": true},
		"oven: is text: want a section with enabled, fan or minutes": {"oven": "hot"},
		"lights::top: is true: want {enabled: true}":                 {"lights": m{"top": true}},
		"lights: is a list: want a section with bottom or top":       {"lights": []any{}},
		"storage: is text: want the name of a component":             {"storage": "a b"},
		"oven::fan: is text: want true or false":                     {"oven": m{"fan": "on"}},
		"plates: 1.5: want a whole number":                           {"plates": 1.5},
		"cups: is a number: want a whole number, 0 or more":          {"cups": -1},
	} {
		lines := said(in)
		require.Len(t, lines, 1, in)
		assert.Contains(t, lines[0], want)
	}
}

// Whatever is written, nothing panics, and no value is repeated. What is not
// complained about, the decoder takes.
func FuzzSection(f *testing.F) {
	for _, seed := range []string{
		"tls: {insecure: true}\nheaders: {a: b}", "oven: {enabled: 1, minutes: [5]}", "a::b: {c: d}", "? [a]\n: b",
		"lights: {1: 2, top: {enabled: {}}}", "'': ''\n'::': 5", "recipes: {egg: 5}\nstorage: {a: b}", "middlewares: [{id: a, b: c}]", "shelves: [{height: 3}, ~, {hight: 3}, 4]",
		"headers: [{name: SECRET, value: 5}]", "cookies: 5\nauth: SECRET", "timeout: 1e99\nplates: 1e99", "oven: ~\nlights: !!binary aGk=",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, yaml string) {
		retrieved, err := confmap.NewRetrievedFromYAML([]byte(yaml))
		if err != nil {
			return
		}
		conf, err := retrieved.AsConf()
		if err != nil {
			return
		}
		err = Section(conf, &kitchen{})
		if err == nil {
			err = conf.Unmarshal(&kitchen{}, confmap.WithIgnoreUnused())
			if err != nil && !strings.Contains(err.Error(), "keepalive") {
				t.Errorf("%q: the decoder says %v", yaml, err)
			}
			return
		}
		var joined interface{ Unwrap() []error }
		if !errors.As(err, &joined) || len(joined.Unwrap()) == 0 {
			t.Errorf("%q: %v", yaml, err)
		}
	})
}

func TestSection_ChecksSectionsThatAreNamedAsOneLikes(t *testing.T) {
	type restaurant struct {
		Ovens map[string]oven `mapstructure:"ovens"`
	}
	check := func(in m) error { return Section(confmap.NewFromStringMap(in), &restaurant{}) }
	require.NoError(t, check(m{"ovens": m{"left": m{"fan": true}, "right": nil}}))
	require.NoError(t, check(m{"ovens": nil}))
	require.EqualError(t, check(m{"ovens": m{"left": m{"fam": true}, "right": m{"minutes": 5}, "third": "hot"}}),
		"ovens::left::fam: unknown setting: did you mean fan?\n"+
			"ovens::right::minutes: 5ns: has it a unit? e.g. 5s\n"+
			"ovens::third: is text: want a section with fan or minutes")
	require.EqualError(t, check(m{"ovens": []any{}}), "ovens: is a list: want a section with one section a name")
}
