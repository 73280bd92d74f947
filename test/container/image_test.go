// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package container

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
	"github.com/llamatelemetry/otelcol-llamacpp/test/llamasim"
	"github.com/llamatelemetry/otelcol-llamacpp/test/podmantest"
)

const (
	root      = "../.."
	imageName = "localhost/otelcol-llamacpp"
	state     = "/var/lib/otelcol-llamacpp"
	logFolder = "/var/log/llama-server"
	revision  = "0123456789abcdef0123456789abcdef01234567"
)

// What the tests share: building takes longer than all of them.
var shared struct {
	once    sync.Once
	engine  *podmantest.Engine
	version string
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.engine != nil {
		if err := shared.engine.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// engine returns an engine that has built the image.
func engine(t *testing.T) *podmantest.Engine {
	t.Helper()
	shared.once.Do(func() {
		shared.err = errors.New("the image was not built: see the first test that failed")
		program := collectortest.Program(t)
		// Other tests need the image after this one.
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
		defer cancel()
		if shared.engine, shared.err = podmantest.Open(); shared.err != nil {
			return
		}
		// The version of the built collector, so that there is little left to compile.
		out, err := exec.CommandContext(ctx, program, "--version").Output()
		if err != nil {
			shared.err = err
			return
		}
		shared.version = strings.TrimSpace(strings.TrimPrefix(string(out), "otelcol-llamacpp version "))
		folder, err := filepath.Abs(root)
		if err != nil {
			shared.err = err
			return
		}
		began := time.Now()
		_, shared.err = shared.engine.Build(ctx, imageName, folder, "docker/Dockerfile",
			"--build-arg", "VERSION="+shared.version, "--build-arg", "REVISION="+revision)
		t.Logf("building the image took %s", time.Since(began).Round(time.Second))
	})
	require.NoError(t, shared.err)
	return shared.engine
}

func TestImage_SaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image, err := e.Image(t.Context(), imageName)
	require.NoError(t, err)

	c := image.Config
	assert.Regexp(t, `^[1-9]\d*:[1-9]\d*$`, c.User, "not root, and a number, which Kubernetes can check")
	assert.Equal(t, []string{"/usr/bin/otelcol-llamacpp"}, c.Entrypoint)
	assert.Equal(t, []string{"--config", "/etc/otelcol-llamacpp/config.yaml"}, c.Cmd)
	assert.Contains(t, c.Volumes, state)
	for _, port := range []string{"4317", "4318", "9464", "9465", "13133"} {
		assert.Contains(t, c.ExposedPorts, port+"/tcp")
	}
	assert.Contains(t, c.Env, "NVIDIA_VISIBLE_DEVICES=all")
	assert.Contains(t, c.Env, "NVIDIA_DRIVER_CAPABILITIES=utility")
	assert.Equal(t, []string{"CMD", "/usr/bin/healthcheck"}, image.HealthCheck.Test)
	assert.Less(t, image.HealthCheck.Timeout, image.HealthCheck.Interval)
	for label, want := range map[string]string{"title": "otelcol-llamacpp", "version": shared.version, "revision": revision, "licenses": "Apache-2.0"} {
		assert.Equal(t, want, c.Labels["org.opencontainers.image."+label], label)
	}
	for _, label := range []string{"description", "source", "documentation"} {
		assert.NotEmpty(t, c.Labels["org.opencontainers.image."+label], label)
	}
}

func TestImage_IsSmall(t *testing.T) {
	t.Parallel()
	e := engine(t)
	image, err := e.Image(t.Context(), imageName)
	require.NoError(t, err)
	base, err := e.Image(t.Context(), podmantest.Debian)
	require.NoError(t, err)
	added := image.Size - base.Size
	t.Logf("%d MB, of which %d MB are Debian and %d MB this project", image.Size/1e6, base.Size/1e6, added/1e6)
	assert.Less(t, added, int64(150e6), "no sources, no caches")
	assert.Less(t, image.Size, int64(300e6))
}

func TestImage_HasItsPrograms(t *testing.T) {
	t.Parallel()
	e := engine(t)
	for args, want := range map[string]string{
		"/usr/bin/otelcol-llamacpp --version":                                           shared.version,
		"/usr/bin/llamaload --version":                                                  shared.version,
		"/usr/bin/otelcol-llamacpp validate --config /etc/otelcol-llamacpp/config.yaml": "",
		"/usr/bin/otelcol-llamacpp validate --config /etc/otelcol-llamacpp/config.yaml --config /etc/otelcol-llamacpp/otlp-out.yaml":        "",
		"/usr/bin/otelcol-llamacpp validate --config /etc/otelcol-llamacpp/config.yaml --config /etc/otelcol-llamacpp/prometheus-push.yaml": "",
		"head -1 /etc/ssl/certs/ca-certificates.crt": "-----BEGIN CERTIFICATE-----",
		"id -u": "10001",
	} {
		words := strings.Fields(args)
		out, err := e.RunToEnd(t, imageName, []string{"--entrypoint", words[0]}, words[1:]...)
		require.NoError(t, err, args)
		assert.Contains(t, out, want, args)
	}
}

// ports are the variables that give a container on the host's network ports of
// its own.
func ports(t *testing.T) (options []string, url func(variable string) string) {
	t.Helper()
	given := map[string]int{}
	options = []string{"--network", "host"}
	for _, variable := range []string{"PROMETHEUS_PORT", "DASHBOARD_PORT", "HEALTH_CHECK_PORT", "TELEMETRY_PORT"} {
		given[variable] = freeport.For(t)
		options = append(options, "--env", fmt.Sprintf("%s=%d", variable, given[variable]))
	}
	return options, func(variable string) string { return fmt.Sprintf("http://localhost:%d", given[variable]) }
}

// eventuallyServes waits until Prometheus' endpoint has a series with a value.
func eventuallyServes(t *testing.T, url, series, value string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + series + ` ` + value + `( |$)`)
	var body string
	if !assert.Eventually(t, func() bool {
		_, body = ask(t, url+"/metrics", "")
		return line.MatchString(body)
	}, time.Minute, 100*time.Millisecond, "%s", line) {
		name, _, _ := strings.Cut(series, "[")
		for l := range strings.Lines(body) {
			if strings.HasPrefix(l, name) {
				t.Log(l)
			}
		}
		t.FailNow()
	}
}

// Each container of these tests has a read-only root and no capabilities.
func TestContainer_WatchesAServer(t *testing.T) {
	t.Parallel()
	e := engine(t)
	sim := llamasim.Start(t, llamasim.Options{})
	options, url := ports(t)
	c := e.Run(t, imageName, append(options, "--env", "LLAMACPP_ENDPOINT="+sim.URL()))
	eventuallyServes(t, url("PROMETHEUS_PORT"), `llamacpp_server_status[{].*llamacpp_server_state="ok".*[}]`, "1")

	require.NoError(t, c.CheckHealth())
	status, page := ask(t, url("DASHBOARD_PORT")+"/", "")
	assert.Equal(t, http.StatusOK, status)
	assert.Contains(t, page, "<html")

	process, err := c.Exec("cat", "/proc/1/status")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^Uid:\t10001\t10001\t10001\t10001$`, process)
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		assert.Regexp(t, `(?m)^`+set+`:\t0+$`, process)
	}
	_, err = c.Exec("touch", "/etc/changed")
	require.ErrorContains(t, err, "Read-only file system")
	assert.Contains(t, c.Log(), "no GPU metrics: no NVIDIA driver on this machine", "said once, and no reason to end")

	assert.Equal(t, "0", c.Stop())
	assert.Contains(t, c.Log(), "Shutdown complete")
}

func TestContainer_HealthCheckFailsWithoutACollector(t *testing.T) {
	t.Parallel()
	e := engine(t)
	options, _ := ports(t)
	c := e.Run(t, imageName, append(options, "--entrypoint", "sleep"), "infinity")
	require.Error(t, c.CheckHealth())
	_, err := c.Exec("/usr/bin/healthcheck")
	assert.ErrorContains(t, err, "connection refused")
}

// What is published is not the container's loopback address, and is for this
// machine's programs and browsers only.
func TestContainer_PublishesThePage(t *testing.T) {
	t.Parallel()
	e := engine(t)
	page, metrics, health := freeport.For(t), freeport.For(t), freeport.For(t)
	var options []string
	for port, inside := range map[int]int{page: 9465, metrics: 9464, health: 13133} {
		options = append(options, "--publish", fmt.Sprintf("127.0.0.1:%d:%d", port, inside))
	}
	c := e.Run(t, imageName, options)
	// As seen from this machine.
	for path, port := range map[string]int{"/": page, "/api/v1/query?query=1": page, "/metrics": metrics, "/?": health} {
		assert.Eventually(t, func() bool {
			status, _ := ask(t, fmt.Sprintf("http://localhost:%d%s", port, path), "")
			return status == http.StatusOK
		}, time.Minute, 100*time.Millisecond, path)
	}
	status, reason := ask(t, fmt.Sprintf("http://localhost:%d/", page), "evil.example")
	assert.Equal(t, http.StatusForbidden, status, "a page of another site, by DNS rebinding")
	assert.Contains(t, reason, "Host header")
	require.NoError(t, c.CheckHealth())
	assert.Equal(t, "0", c.Stop())
}

// NVIDIA's container runtime mounts the driver's library where the loader looks.
func TestContainer_ReadsTheGPUs(t *testing.T) {
	t.Parallel()
	e := engine(t)
	driver := fakenvml.Start(t, fakenvml.Options{GPUs: 2})
	// The library of the tests shares memory with them.
	require.NoError(t, os.Chmod(driver.Path+".state", 0o666))
	options, url := ports(t)
	const inside = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
	c := e.Run(t, imageName, append(options, "--volume", driver.Path+":"+inside+":ro", "--volume", driver.Path+".state:"+inside+".state"))
	for i := range 2 {
		eventuallyServes(t, url("PROMETHEUS_PORT"), `hw_gpu_utilization_ratio[{].*hw_gpu_task="general".*hw_id="`+driver.UUID(i)+`".*[}]`, "0[.]9"+strconv.Itoa(i)+"?")
	}
	assert.Equal(t, "0", c.Stop())
	assert.Zero(t, driver.Sessions(), "the connection to the driver was closed")
}

// The volume has the counts and the place in the log.
func TestContainer_ContinuesWhereItStopped(t *testing.T) {
	t.Parallel()
	e := engine(t)
	recorded, err := os.ReadFile(root + "/connector/llamacpplogconnector/internal/serverlog/testdata/start_and_two_requests.log")
	require.NoError(t, err)
	// The server starts, and does two requests.
	begins := regexp.MustCompile(`(?m)^.* slot get_availabl`).FindAllIndex(recorded, -1)
	require.Len(t, begins, 2)
	first, second := begins[0][0], begins[1][0]
	// Others than the owner may read it, but only the server may write.
	folder := t.TempDir()
	require.NoError(t, os.Chmod(folder, 0o755))
	for dir := folder; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	file := filepath.Join(folder, "llama-server.log")
	write := func(lines []byte) {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		require.NoError(t, err)
		_, err = f.Write(lines)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	options, url := ports(t)
	// Docker and Podman give a new volume the owner that its folder has in the image.
	options = append(options, "--volume", "state:"+state, "--volume", folder+":"+logFolder+":ro")
	const requests = `llamacpp_requests_total[{].*llamacpp_request_outcome="completed".*[}]`

	// The first time, the log is read from its end.
	write(recorded[:first])
	c := e.Run(t, imageName, options)
	require.Eventually(t, func() bool { return strings.Contains(c.Log(), "Started watching file") }, time.Minute, 100*time.Millisecond)
	write(recorded[first:second])
	eventuallyServes(t, url("PROMETHEUS_PORT"), requests, "1")
	assert.Equal(t, "0", c.Stop())
	c.Remove()

	write(recorded[second:]) // while there is no collector
	c = e.Run(t, imageName, options)
	eventuallyServes(t, url("PROMETHEUS_PORT"), requests, "2")
	assert.Equal(t, "0", c.Stop())
}

// The commands of the document, one after another, but for those that need a GPU.
// The ports of this machine are others.
func TestReadme_CommandsRun(t *testing.T) {
	t.Parallel()
	e := engine(t)
	text, err := os.ReadFile(root + "/docker/README.md")
	require.NoError(t, err)
	var script strings.Builder
	for _, fence := range regexp.MustCompile("(?s)\n```sh\n(.*?\n)```").FindAllStringSubmatch(string(text), -1) {
		if strings.HasPrefix(fence[1], "docker run") && !strings.Contains(fence[1], "--gpus") {
			script.WriteString(fence[1])
		}
	}
	published := map[string]int{}
	commands := regexp.MustCompile(`127[.]0[.]0[.]1:(\d+):`).ReplaceAllStringFunc(script.String(), func(address string) string {
		port := freeport.For(t)
		published[address] = port
		return fmt.Sprintf("127.0.0.1:%d:", port)
	})
	require.Equal(t, 2, strings.Count(commands, "docker run"))
	// Before it ends, the container is what the document says.
	page, stop := fmt.Sprintf("http://localhost:%d/", published["127.0.0.1:9465:"]), "docker stop otelcol\n"
	require.Contains(t, commands, stop)
	commands = strings.Replace(commands, stop, "curl -fsS "+page+"\n"+stop, 1)
	// A person is slower than this script.
	commands = strings.Replace(commands, "docker exec", "sleep 5\ndocker exec", 1)

	home, programs := t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(home, "llama-server-log"), 0o755))
	require.NoError(t, e.Docker(programs))
	cmd := exec.CommandContext(t.Context(), "bash", "-euxo", "pipefail", "-c", commands)
	cmd.Env = append(os.Environ(), "HOME="+home, "PATH="+programs+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "<html")
	assert.Contains(t, string(out), "200 OK")
	assert.Contains(t, string(out), "Everything is ready")
}
