// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/llamatest"
)

// project is a compose file as Compose understands it, with paths of this machine.
type project struct {
	Services map[string]service
	Volumes  map[string]any
}

type service struct {
	Image       string
	Build       *struct{ Context, Dockerfile string }
	Command     []string
	Environment map[string]*string
	Profiles    []string
	ReadOnly    bool     `json:"read_only"`
	CapAdd      []string `json:"cap_add"`
	CapDrop     []string `json:"cap_drop"`
	SecurityOpt []string `json:"security_opt"`
	Privileged  bool
	PID         string `json:"pid"`
	NetworkMode string `json:"network_mode"`
	Networks    map[string]*struct{ Aliases []string }
	Healthcheck *struct {
		Test    []string
		Disable bool
	}
	Ports []struct {
		HostIP    string `json:"host_ip"`
		Target    int
		Published string
	}
	Volumes []struct {
		Type, Source, Target string
		ReadOnly             bool `json:"read_only"`
	}
	Deploy *struct {
		Resources struct {
			Reservations *struct {
				Devices []struct {
					Driver       string
					Capabilities []string
				}
			}
		}
	}
}

// source is the file or folder of this machine that a service sees as a path.
func (s service) source(t *testing.T, path string) string {
	t.Helper()
	for _, v := range s.Volumes {
		if rest, ok := strings.CutPrefix(path, v.Target); ok && v.Type == "bind" && (rest == "" || rest[0] == '/') {
			return v.Source + rest
		}
	}
	t.Fatalf("nothing is mounted as %s", path)
	return ""
}

// load has Compose's own library read a file. What the environment of this machine
// says to it does not count.
func load(t *testing.T, file string, profiles ...string) (project, error) {
	t.Helper()
	file, err := filepath.Abs(file)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", ".", file}, profiles...)...)
	cmd.Dir = filepath.Join(root, "tools", "compose")
	variable := regexp.MustCompile(`^(COMPOSE_|LLAMACPP_|GRAFANA_|COLLECTOR_|HF_|VERSION=)`)
	cmd.Env = slices.DeleteFunc(os.Environ(), variable.MatchString)
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // as exec returns it
		return project{}, fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	require.NoError(t, err)
	var p project
	require.NoError(t, json.Unmarshal(out, &p))
	return p, nil
}

const composeFile = root + "/docker/compose.yaml"

// stack returns the services of profiles, by default of those that .env names.
func stack(t *testing.T, profiles ...string) project {
	t.Helper()
	p, err := load(t, composeFile, profiles...)
	require.NoError(t, err)
	return p
}

func TestCompose_UpStartsEverything(t *testing.T) {
	t.Parallel()
	always := []string{"alertmanager", "grafana", "jaeger", "prometheus"}
	for profile, more := range map[string][]string{
		"":         {"collector", "llama-server"},
		"cpu":      {"collector", "llama-server"},
		"gpu":      {"collector-cuda", "llama-server-cuda"},
		"external": {"collector"},
	} {
		p := stack(t, strings.Fields(profile)...)
		var names []string
		for name := range p.Services {
			names = append(names, name)
		}
		assert.ElementsMatch(t, append(more, always...), names, "profile %q", profile)
	}
}

func TestCompose_GivesServicesNoMoreThanTheyNeed(t *testing.T) {
	t.Parallel()
	for _, profile := range []string{"cpu", "gpu", "external"} {
		published := map[string]string{}
		p := stack(t, profile)
		for name, s := range p.Services {
			assert.True(t, s.ReadOnly, "%s: the root is read-only", name)
			assert.Equal(t, []string{"ALL"}, s.CapDrop, name)
			assert.Empty(t, s.CapAdd, name)
			assert.Contains(t, s.SecurityOpt, "no-new-privileges:true", name)
			assert.False(t, s.Privileged, name)
			assert.Empty(t, s.PID+s.NetworkMode, "%s: namespaces of its own", name)
			assert.Regexp(t, `:[a-z-]*v?\d[\w.-]*$`, s.Image, "%s: a version", name)
			if assert.NotNil(t, s.Healthcheck, name) {
				assert.False(t, s.Healthcheck.Disable, name)
				if assert.NotEmpty(t, s.Healthcheck.Test, name) {
					assert.Equal(t, "CMD", s.Healthcheck.Test[0], "%s: no shell", name)
				}
			}
			assert.NotEmpty(t, s.Ports, name)
			for _, port := range s.Ports {
				assert.Equal(t, "127.0.0.1", port.HostIP, name)
				assert.NotContains(t, published, port.Published, "%s and %s", name, published[port.Published])
				published[port.Published] = name
			}
			for _, v := range s.Volumes {
				switch v.Type {
				case "bind":
					assert.True(t, v.ReadOnly, "%s: %s", name, v.Target)
					_, err := os.Stat(v.Source)
					require.NoError(t, err, name)
				case "volume":
					assert.Contains(t, p.Volumes, v.Source, name)
				default:
					t.Errorf("%s mounts a %s", name, v.Type)
				}
			}
			if s.Build != nil {
				_, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile))
				require.NoError(t, err)
			}
		}
	}
}

// Others find either by the same name.
func TestCompose_GPUsAreForTheirProfileAlone(t *testing.T) {
	t.Parallel()
	for name, s := range stack(t, "gpu").Services {
		plain, ok := strings.CutSuffix(name, "-cuda")
		if !ok {
			assert.Nil(t, s.Deploy, name)
			continue
		}
		require.NotNil(t, s.Deploy, name)
		devices := s.Deploy.Resources.Reservations.Devices
		require.Len(t, devices, 1, name)
		assert.Equal(t, "nvidia", devices[0].Driver, name)
		assert.Contains(t, devices[0].Capabilities, "gpu", name)
		assert.Equal(t, []string{plain}, s.Networks["default"].Aliases)
	}
	for name, s := range stack(t, "cpu").Services {
		assert.Nil(t, s.Deploy, name)
	}
}

func TestCompose_AKeyThatComposeDoesNotKnowIsFound(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(composeFile)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "compose.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(text), "cap_drop:", "cap_drops:", 1)), 0o600))
	_, err = load(t, file)
	assert.ErrorContains(t, err, "cap_drops")
}

// What the tests run is what the stack runs.
func TestCompose_HasTheVersionsThatAreTested(t *testing.T) {
	t.Parallel()
	services := stack(t).Services
	pinned := func(file, pattern string) string {
		text, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		match := regexp.MustCompile(pattern).FindSubmatch(text)
		require.NotNil(t, match, "%s: %s", file, pattern)
		return string(match[1])
	}
	// Prometheus v3.16.0 is the module v0.316.0.
	version := regexp.MustCompile(`^0\.(\d)(\d\d)\.(\d+)$`).FindStringSubmatch(pinned("tools/prometheus/go.mod", `github.com/prometheus/prometheus v(\S+)`))
	require.NotNil(t, version)
	assert.Equal(t, fmt.Sprintf("prom/prometheus:v%s.%s.%s", version[1], strings.TrimPrefix(version[2], "0"), version[3]), services["prometheus"].Image)
	assert.Equal(t, "prom/alertmanager:v"+pinned("tools/alertmanager/go.mod", `github.com/prometheus/alertmanager v(\S+)`), services["alertmanager"].Image)
	assert.Equal(t, "grafana/grafana:"+pinned("test/grafana/package.json", `"@grafana/schema": "([\d.]+)"`), services["grafana"].Image)
	assert.Equal(t, "otelcol-llamacpp:"+pinned("Makefile", `NEXT_VERSION := (\S+)`), services["collector"].Image)
}

// The real server, with a small model instead of one that it downloads.
func TestCompose_LlamaServerTakesItsArguments(t *testing.T) {
	t.Parallel()
	server, err := llamatest.Find()
	require.NoError(t, err)
	for name, profile := range map[string]string{"llama-server": "cpu", "llama-server-cuda": "gpu"} {
		s := stack(t, profile).Services[name]
		var args []string
		values := map[string]string{}
		for i := 0; i < len(s.Command); i++ {
			option := s.Command[i]
			if i+1 < len(s.Command) && !strings.HasPrefix(s.Command[i+1], "-") {
				i++
				values[option] = s.Command[i]
			}
			switch option {
			case "-hf", "--host", "--port": // those of the test
			case "--log-file":
				args = append(args, option, "/tmp/compose-"+name+".log")
			default:
				args = append(args, strings.Fields(option+" "+values[option])...)
			}
		}
		assert.Regexp(t, `^[\w.-]+/[\w.-]+-GGUF`, values["-hf"])
		assert.Equal(t, "0.0.0.0:8080", values["--host"]+":"+values["--port"])

		log := filepath.Join(server.Root, "tmp", "compose-"+name+".log")
		t.Cleanup(func() { os.Remove(log) })
		llama := llamatest.Start(t, llamatest.Options{Args: args})
		llama.Terminate()
		text, err := os.ReadFile(log)
		require.NoError(t, err)
		assert.Regexp(t, `(?m)^\d+\.\d\d\.\d{3}\.\d{3} I srv .*listening on http`, string(text), "with what the connector reads times from")
	}
}
