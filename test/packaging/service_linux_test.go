// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/machine"
)

const (
	unit   = "otelcol-llamacpp.service"
	config = "/etc/otelcol-llamacpp/config.yaml"
)

// exposure is the most that systemd may find in the unit, from 0 to 100. What
// remains is the network, netlink, other processes in /proc and a fixed user.
const exposure = "20"

// host is a machine with the packages in /root.
type host struct {
	*machine.Machine
	t *testing.T
}

func start(t *testing.T) *host {
	t.Helper()
	h := &host{machine.Start(t), t}
	copyFile(t, filepath.Join(packed(t), name("deb")), h.Path("/root/new.deb"), 0o644)
	return h
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, mode))
}

func (h *host) write(path, text string) {
	h.t.Helper()
	require.NoError(h.t, os.WriteFile(h.Path(path), []byte(text), 0o600))
}

func (h *host) read(path string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.Path(path))
	require.NoError(h.t, err)
	return string(text)
}

// eventually waits until a port answers a page with a line that matches.
func (h *host) eventually(port int, path, line string) {
	h.t.Helper()
	answer := ""
	expression := regexp.MustCompile(`(?m)^` + line)
	require.Eventually(h.t, func() bool {
		answer = h.Get(port, path)
		return expression.MatchString(answer)
	}, 40*time.Second, 200*time.Millisecond, "no line %q at port %d%s", line, port, path)
}

// process is the number of the collector's process.
func (h *host) process() string {
	h.t.Helper()
	return strings.TrimSpace(h.Run("systemctl", "show", "--property=MainPID", "--value", unit))
}

// older makes a package of version 0.0.1 with other configuration files, as if
// these had changed since.
func (h *host) older() {
	h.t.Helper()
	dir := h.t.TempDir()
	for _, args := range [][]string{
		{"dpkg-deb", "--raw-extract", filepath.Join(packed(h.t), name("deb")), dir},
		{"sed", "-i", "s/^Version: .*/Version: 0.0.1/", dir + "/DEBIAN/control"},
		{"sed", "-i", "1i # of version 0.0.1", dir + config, dir + "/etc/otelcol-llamacpp/journald.yaml"},
		{"dpkg-deb", "-Znone", "--root-owner-group", "--build", dir, h.Path("/root/old.deb")},
	} {
		output, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		require.NoError(h.t, err, "%v: %s", args, output)
	}
}

// server runs the simulator as the service llama-server, whose log is in the journal.
func (h *host) server() {
	h.t.Helper()
	build := exec.Command("go", "build", "-o", h.Path("/usr/local/bin/llama-server"), "../cmd/llama-server-sim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := build.CombinedOutput()
	require.NoError(h.t, err, "%s", output)
	h.write("/etc/systemd/system/llama-server.service", `[Service]
DynamicUser=yes
# Standard error is a socket to the journal, which a program cannot open by a name.
ExecStart=/bin/bash -c 'exec llama-server --port 8080 -log >(exec cat >&2)'
`)
	h.Run("systemctl", "start", "llama-server")
}

func TestUnitIsValidAndLittleExposed(t *testing.T) {
	h := start(t)
	h.Run("dpkg", "--unpack", "/root/new.deb")
	h.Run("useradd", "--system", "--user-group", "otelcol-llamacpp")
	assert.Empty(t, h.Run("systemd-analyze", "verify", "/usr/lib/systemd/system/"+unit))
	report, err := h.Try("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+exposure, "/usr/lib/systemd/system/"+unit)
	require.NoError(t, err, report)
	t.Log(report[strings.LastIndex(report, "Overall"):])
}

func TestPackage_FromInstallationToPurge(t *testing.T) {
	h := start(t)
	h.older()
	before := h.files()
	h.server()

	t.Log("installation")
	h.Run("dpkg", "--install", "/root/old.deb")
	assert.Equal(t, "enabled\n", h.Run("systemctl", "is-enabled", unit))
	h.eventually(13133, "/", `HTTP/1\.. 200 `)

	t.Log("it watches the server and reads its log in the journal")
	h.eventually(9464, "/metrics", `llamacpp_server_status\{.*llamacpp_server_state="ok".*\} 1`)
	h.Run("llamaload", "run", "--url", "http://localhost:8080", "--rate", "5", "--duration", "3s", "--max-tokens", "4")
	h.eventually(9464, "/metrics", `gen_ai_server_request_duration_seconds_count\{.*\} [1-9]`)
	h.eventually(9465, "/", `HTTP/1\.. 200 `)

	t.Log("it has no rights that it does not need")
	status := h.read("/proc/" + h.process() + "/status")
	uid := strings.TrimSpace(h.Run("id", "--user", "otelcol-llamacpp"))
	journal := strings.Split(h.Run("getent", "group", "systemd-journal"), ":")[2]
	for _, want := range []string{
		`Uid:\t` + strings.Repeat(uid+`\t`, 3) + uid, `Groups:\t(\d+ )*` + journal + `( \d+)* `,
		`CapEff:\t0{16}`, `CapBnd:\t0{16}`, `NoNewPrivs:\t1`, `Seccomp:\t2`,
	} {
		assert.Regexp(t, `(?m)^`+want+`$`, status)
	}
	assert.Equal(t, "drwx------ otelcol-llamacpp\n", h.Run("stat", "--format=%A %U", "/var/lib/otelcol-llamacpp"))
	assert.NotContains(t, h.Run("journalctl", "--no-pager", "--unit="+unit), "operation not permitted")

	t.Log("an upgrade keeps what the administrator has changed, and restarts the service")
	h.write("/etc/default/otelcol-llamacpp", "HEALTH_CHECK_PORT=13134\n")
	mine := strings.Replace(h.read(config), "collection_interval: 1s", "collection_interval: 2s", 1) + "# mine\n"
	require.NoError(t, os.WriteFile(h.Path(config), []byte(mine), 0o600))
	process := h.process()
	// For questions there is nobody to answer.
	h.Run("dpkg", "--force-confdef", "--force-confold", "--install", "/root/new.deb")
	assert.Equal(t, mine, h.read(config))
	assert.FileExists(t, h.Path(config+".dpkg-dist"), "the new one lies beside it")
	assert.NotContains(t, h.read("/etc/otelcol-llamacpp/journald.yaml"), "0.0.1", "what nobody has changed is new")
	assert.Equal(t, "HEALTH_CHECK_PORT=13134\n", h.read("/etc/default/otelcol-llamacpp"))
	h.eventually(13134, "/", `HTTP/1\.. 200 `)
	assert.NotEqual(t, process, h.process())
	h.eventually(9464, "/metrics", `gen_ai_server_request_duration_seconds_count\{.*\} [1-9]`)

	t.Log("a drop-in gives it the rights that find another user's process, a reload the new configuration")
	require.NoError(t, os.Mkdir(h.Path("/etc/systemd/system/"+unit+".d"), 0o755))
	h.write("/etc/systemd/system/"+unit+".d/override.conf", `[Service]
CapabilityBoundingSet=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH
AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH
`)
	h.Run("systemctl", "daemon-reload")
	h.Run("systemctl", "restart", unit)
	process = h.process()
	assert.Regexp(t, `(?m)^CapEff:\t0{11}80004$`, h.read("/proc/"+process+"/status"))
	h.eventually(9464, "/metrics", `llamacpp_server_status\{`)
	mine = strings.Replace(mine, "PROMETHEUS_PORT:-9464", "PROMETHEUS_PORT:-9470", 1)
	h.write(config, mine)
	h.Run("systemctl", "reload", unit)
	h.eventually(9470, "/metrics", `llamacpp_server_status\{`)
	assert.Equal(t, process, h.process())
	h.Run("rm", "-r", "/etc/systemd/system/"+unit+".d")

	t.Log("a wrong configuration is refused, and the journal says why")
	h.write(config, strings.Replace(mine, "scrapers:", "scraper:", 1))
	_, err := h.Try("systemctl", "restart", unit)
	require.Error(t, err)
	assert.Contains(t, h.Run("journalctl", "--no-pager", "--unit="+unit), "did you mean scrapers?")
	h.write(config, mine)
	h.Run("systemctl", "reset-failed", unit)
	h.Run("systemctl", "start", unit)
	h.eventually(13134, "/", `HTTP/1\.. 200 `)

	t.Log("what an administrator has disabled stays so")
	h.Run("systemctl", "disable", unit)
	h.Run("dpkg", "--force-confold", "--install", "/root/new.deb")
	disabled, err := h.Try("systemctl", "is-enabled", unit)
	require.Error(t, err)
	assert.Equal(t, "disabled\n", disabled)

	t.Log("a removal leaves configuration and state")
	h.Run("dpkg", "--remove", "otelcol-llamacpp")
	assert.Empty(t, h.Get(13134, "/"), "it still runs")
	assert.Equal(t, mine, h.read(config))
	assert.DirExists(t, h.Path("/var/lib/otelcol-llamacpp/dashboard"))
	assert.NoFileExists(t, h.Path("/usr/bin/otelcol-llamacpp"))

	t.Log("a purge leaves nothing")
	h.Run("dpkg", "--purge", "otelcol-llamacpp")
	assert.Equal(t, before, h.files())
}

// files are the files of the machine that programs do not change by themselves.
func (h *host) files() string {
	h.t.Helper()
	return h.Run("bash", "-c", `find /etc /usr /opt /srv /var ! -type d \
		! -path '/var/log/*' ! -path '/var/lib/dpkg/*' ! -path '/var/lib/systemd/*' ! -path '/var/cache/*' \
		! -path '/var/tmp/*' ! -path '/var/lib/private/*' ! -path '/etc/*-' ! -path '/etc/.pwd.lock' ! -path '*llama-server*' | sort`)
}
