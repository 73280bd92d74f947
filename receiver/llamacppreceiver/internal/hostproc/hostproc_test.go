// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package hostproc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func listen(t *testing.T, address string) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l.Addr().(*net.TCPAddr).Port
}

func TestProcesses_ListenerOfThisHost(t *testing.T) {
	four := listen(t, "127.0.0.1:0")
	any6 := listen(t, "[::]:0")
	for _, f := range []*Finder{
		New("127.0.0.1", four), New("localhost", four), New("::ffff:127.0.0.1", four), New("0.0.0.0", four),
		New("127.0.0.1", any6), New("::1", any6), New("::", any6),
	} {
		pids, err := f.Processes(t.Context())
		require.NoError(t, err, f.host)
		assert.Equal(t, os.Getpid(), pids[0], f.host)
	}
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses {
		ip := a.(*net.IPNet).IP
		if ip.IsLoopback() || ip.IsLinkLocalUnicast() {
			continue
		}
		pids, err := New(ip.String(), any6).Processes(t.Context())
		require.NoError(t, err, ip)
		assert.Equal(t, os.Getpid(), pids[0])
	}
}

func TestProcesses_ChildrenAreThoseOfARouter(t *testing.T) {
	port := listen(t, "127.0.0.1:0")
	child := exec.Command("sh", "-c", "sleep 60 & wait")
	require.NoError(t, child.Start())
	t.Cleanup(func() {
		pids, _ := New("127.0.0.1", port).Processes(context.Background())
		for _, pid := range pids[1:] {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		_ = child.Wait()
	})
	f := New("127.0.0.1", port)
	require.Eventually(t, func() bool {
		pids, err := f.Processes(t.Context())
		return err == nil && len(pids) == 3 && pids[1] == child.Process.Pid
	}, 20*time.Second, 10*time.Millisecond)
}

func TestProcesses_NobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	_, err = New("127.0.0.1", port).Processes(t.Context())
	assert.ErrorContains(t, err, fmt.Sprintf("no visible process listens on port %d", port))
}

func TestProcesses_AnotherHost(t *testing.T) {
	_, err := New("192.0.2.1", 8080).Processes(t.Context())
	assert.ErrorContains(t, err, "192.0.2.1 is no address of this host")
	f := New("elsewhere.example", 8080)
	f.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	}
	_, err = f.Processes(t.Context())
	assert.ErrorContains(t, err, "elsewhere.example is no address of this host")
	f = New("nowhere.invalid", 8080)
	_, err = f.Processes(t.Context())
	assert.ErrorContains(t, err, "cannot be resolved")
}

func TestProcesses_NameIsResolvedNoLongerThanTheContextLasts(t *testing.T) {
	f := New("slow.example", 8080)
	f.lookup = func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Processes(ctx)
	assert.ErrorIs(t, err, context.Canceled)
}

// tables is a /proc of its own.
type tables struct {
	t      *testing.T
	folder string
}

func (p tables) write(path, text string) {
	p.t.Helper()
	path = filepath.Join(p.folder, path)
	require.NoError(p.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(p.t, os.WriteFile(path, []byte(text), 0o600))
}

func (p tables) link(path, target string) {
	p.t.Helper()
	path = filepath.Join(p.folder, path)
	require.NoError(p.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(p.t, os.Symlink(target, path))
}

func (p tables) process(pid, parent int, name string) {
	p.t.Helper()
	p.write(fmt.Sprintf("%d/stat", pid), fmt.Sprintf("%d (%s) S %d %s 4242 0\n", pid, name, parent, strings.Repeat("0 ", 17)))
}

const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func socket(local, state string, inode int) string {
	return fmt.Sprintf("   0: %s 00000000:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0 100 0 0 10 0\n", local, state, inode)
}

const trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n        |-- 172.17.0.2\n           /32 host LOCAL\n        |-- 172.17.0.0\n           /16 link UNICAST\n"

// A container's server at the container's own address, on a kernel that does not
// list children, with a router's child.
func TestProcesses_InAContainer(t *testing.T) {
	p := tables{t, t.TempDir()}
	p.link("self/ns/net", "net:[1]")
	p.write("self/net/tcp", header+socket("0100007F:1F90", "0A", 5))
	p.write("self/net/fib_trie", "Local:\n        |-- 10.0.0.1\n           /32 host LOCAL\n")
	p.link("1/ns/net", "net:[1]")
	p.process(1, 0, "init")
	p.link("40/ns/net", "net:[2]")
	p.write("40/net/fib_trie", trie)
	p.write("40/net/tcp", header+socket("020011AC:1F90", "01", 8)+socket("00000000:1F91", "0A", 7)+socket("00000000:1F90", "0A", 9))
	p.process(40, 1, "sh) (x")
	p.link("40/fd/3", "socket:[8]")
	p.write("40/task/40/comm", "")
	p.process(41, 40, "llama-server")
	p.link("41/ns/net", "net:[2]")
	p.link("41/fd/0", "/dev/null")
	p.link("41/fd/7", "socket:[9]")
	p.write("41/task/41/comm", "")
	p.process(42, 41, "llama-server")
	p.write("42/task/42/comm", "")
	p.process(43, 40, "other")

	f := New("172.17.0.2", 8080)
	f.proc = p.folder
	pids, err := f.Processes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{41, 42}, pids)

	f = New("127.0.0.1", 8080)
	f.proc = p.folder
	_, err = f.Processes(t.Context())
	assert.ErrorContains(t, err, "is not visible: it runs in another process namespace")
}

// A published port: docker-proxy listens on the host, and the server in its
// container on another port.
func TestProcesses_BehindDockersProxy(t *testing.T) {
	p := tables{t, t.TempDir()}
	p.link("self/ns/net", "net:[1]")
	p.write("self/net/tcp", header+socket("00000000:1F90", "0A", 5))
	p.write("self/net/tcp6", header+socket("00000000000000000000000000000000:1F90", "0A", 6))
	p.process(30, 1, "docker-proxy")
	p.link("30/ns/net", "net:[1]")
	p.link("30/fd/4", "socket:[5]")
	p.write("30/cmdline", strings.Join([]string{
		"/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "8080", "-container-ip", "172.17.0.2", "-container-port", "80", "",
	}, "\x00"))
	p.link("41/ns/net", "net:[2]")
	p.write("41/net/fib_trie", trie)
	p.write("41/net/tcp", header+socket("00000000:0050", "0A", 9))
	p.process(41, 20, "llama-server")
	p.link("41/fd/7", "socket:[9]")
	f := New("127.0.0.1", 8080)
	f.proc = p.folder
	pids, err := f.Processes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{41}, pids)

	// The container is there, and its server is not.
	p.write("41/net/tcp", header)
	f = New("127.0.0.1", 8080)
	f.proc = p.folder
	_, err = f.Processes(t.Context())
	assert.ErrorContains(t, err, "no visible process listens on port 80 of")
}

func TestProcesses_ProxyOfItselfIsNotFollowedForEver(t *testing.T) {
	p := tables{t, t.TempDir()}
	p.write("self/net/tcp", header+socket("00000000:1F90", "0A", 5))
	p.process(30, 1, "docker-proxy")
	p.link("30/fd/4", "socket:[5]")
	p.write("30/cmdline", "docker-proxy\x00-container-ip\x00127.0.0.1\x00-container-port\x008080\x00")
	f := New("127.0.0.1", 8080)
	f.proc = p.folder
	pids, err := f.Processes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{30}, pids)
}

// Everything is a child of process 1.
func TestProcesses_SystemdsSocketIsThatOfTheService(t *testing.T) {
	p := tables{t, t.TempDir()}
	p.write("self/net/tcp", header+socket("0100007F:1F90", "0A", 9))
	p.process(1, 0, "systemd")
	p.write("1/comm", "systemd\n")
	p.link("1/fd/30", "socket:[9]")
	p.process(50, 1, "other")
	f := New("127.0.0.1", 8080)
	f.proc = p.folder
	_, err := f.Processes(t.Context())
	assert.ErrorContains(t, err, "systemd listens on port 8080 until")
	p.process(41, 1, "llama-server")
	p.link("41/fd/3", "socket:[9]")
	f = New("127.0.0.1", 8080)
	f.proc = p.folder
	pids, err := f.Processes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{41}, pids)
}

func TestProcesses_IPv6(t *testing.T) {
	p := tables{t, t.TempDir()}
	p.write("self/net/if_inet6", "20010db8000000000000000000000007 02 40 00 80     eth0\n")
	p.write("self/net/tcp6", header+socket("B80D0120000000000000000007000000:1F90", "0A", 9))
	p.process(41, 1, "llama-server")
	p.link("41/fd/7", "socket:[9]")
	f := New("2001:db8::7", 8080)
	f.proc = p.folder
	pids, err := f.Processes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{41}, pids)
	f = New("2001:db8::8", 8080)
	f.proc = p.folder
	_, err = f.Processes(t.Context())
	assert.ErrorContains(t, err, "no address of this host")
}

func TestProcesses_SearchesSeldom(t *testing.T) {
	p := tables{t, t.TempDir()}
	p.write("self/net/tcp", header)
	p.process(41, 1, "llama-server")
	p.link("41/fd/7", "socket:[9]")
	now := time.Now()
	f := New("127.0.0.1", 8080)
	f.proc, f.now = p.folder, func() time.Time { return now }
	_, err := f.Processes(t.Context())
	require.Error(t, err)
	p.write("self/net/tcp", header+socket("0100007F:1F90", "0A", 9))
	_, err = f.Processes(t.Context())
	require.Error(t, err, "not yet")
	now = now.Add(searchEvery)
	pids, err := f.Processes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{41}, pids)

	// The process ends, and another one listens.
	require.NoError(t, os.RemoveAll(filepath.Join(p.folder, "41")))
	p.process(50, 1, "llama-server")
	p.link("50/fd/7", "socket:[9]")
	pids, err = f.Processes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []int{50}, pids)
}

func BenchmarkProcesses(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer func() { assert.NoError(b, l.Close()) }()
	f := New("127.0.0.1", l.Addr().(*net.TCPAddr).Port)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Processes(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
