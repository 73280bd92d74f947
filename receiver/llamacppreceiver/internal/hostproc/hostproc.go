// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package hostproc finds the processes of a server on this host by the address
// that it listens on, through Linux's network and process tables.
package hostproc // import "github.com/llamatelemetry/otelcol-llamacpp/receiver/llamacppreceiver/internal/hostproc"

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// searchEvery is the pause after a search in vain.
	searchEvery = 10 * time.Second
	// trustFor is how long a process that still runs is taken for the one that
	// listens.
	trustFor = time.Minute
	// lookupPatience is how long the endpoint's name may take to resolve.
	lookupPatience = time.Second
	// maxProxies bounds how many proxies are followed. There can be several, as
	// Docker runs in Docker too, and a command line can say anything.
	maxProxies = 3
)

// Finder finds the processes of one server. It is not for concurrent use.
type Finder struct {
	host   string
	port   uint16
	proc   string // /proc, or another for tests
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	now    func() time.Time

	// Of the last search.
	searched time.Time
	found    []process // those that listen
	err      error
}

// process is one process, and not another that got its id later.
type process struct {
	pid   int
	start string // in clock ticks, as /proc has it
}

// New returns a finder for the server behind an endpoint's host and port.
func New(host string, port int) *Finder {
	return &Finder{host: host, port: uint16(port), proc: "/proc", lookup: net.DefaultResolver.LookupNetIP, now: time.Now}
}

// Processes returns the ids of the server's processes and of all their children.
// An error says why they cannot be found, and what to do about it.
//
// Most calls only look whether the processes still run. A search comes with the
// first call, when they have ended, a minute after the last search, and ten
// seconds after one in vain. It reads the tables of every process of the host,
// and first resolves the endpoint's name, for which it blocks for up to a second,
// or until ctx ends.
func (f *Finder) Processes(ctx context.Context) ([]int, error) {
	age := f.now().Sub(f.searched)
	if f.searched.IsZero() || age >= trustFor || f.err != nil && age >= searchEvery || f.err == nil && !f.alive() {
		f.found, f.err = f.search(ctx, f.host, f.port, maxProxies)
		f.searched = f.now()
	}
	if f.err != nil {
		return nil, f.err
	}
	var pids []int
	for _, p := range f.found {
		pids = f.family(pids, p.pid)
	}
	return pids, nil
}

// alive reports whether the processes that were found still run.
func (f *Finder) alive() bool {
	for _, p := range f.found {
		if start, _, ok := f.stat(p.pid); !ok || start != p.start {
			return false
		}
	}
	return true
}

// family adds a process and its children, and theirs.
func (f *Finder) family(pids []int, pid int) []int {
	if slices.Contains(pids, pid) {
		return pids
	}
	pids = append(pids, pid)
	tasks, err := os.ReadDir(f.path(pid, "task"))
	if err != nil {
		return pids
	}
	listed := false
	for _, task := range tasks {
		list, err := os.ReadFile(f.path(pid, "task", task.Name(), "children"))
		if err != nil {
			continue
		}
		listed = true
		for _, field := range bytes.Fields(list) {
			if child, err := strconv.Atoi(string(field)); err == nil {
				pids = f.family(pids, child)
			}
		}
	}
	if listed {
		return pids
	}
	// The kernel has no such lists: look for those that name it as their parent.
	for _, other := range f.all() {
		if _, parent, ok := f.stat(other); ok && parent == pid {
			pids = f.family(pids, other)
		}
	}
	return pids
}

// stat reads when a process started, and the id of its parent.
func (f *Finder) stat(pid int) (start string, parent int, ok bool) {
	b, err := os.ReadFile(f.path(pid, "stat"))
	if err != nil {
		return "", 0, false
	}
	// The name, in parentheses, can hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return "", 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return fields[19], parent, err == nil
}

func (f *Finder) path(pid int, more ...string) string {
	return filepath.Join(append([]string{f.proc, strconv.Itoa(pid)}, more...)...)
}

// all are the ids of all processes that are visible.
func (f *Finder) all() []int {
	entries, _ := os.ReadDir(f.proc)
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// search finds the processes that listen: in this network namespace, in that of a
// container whose processes are visible, or behind Docker's proxy.
func (f *Finder) search(ctx context.Context, host string, port uint16, proxies int) ([]process, error) {
	addresses, err := f.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	here := false
	for _, space := range f.spaces(addresses) {
		local := slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return !f.isLocal(space, a) })
		if len(local) == 0 {
			continue
		}
		here = true
		inodes := f.listeners(space, local, port)
		if len(inodes) == 0 {
			continue
		}
		owners, err := f.owners(inodes, port)
		if err != nil {
			return nil, err
		}
		for _, p := range owners {
			if host, port, ok := f.publishes(p.pid); ok && proxies > 0 {
				return f.search(ctx, host, port, proxies-1)
			}
		}
		return owners, nil
	}
	if !here {
		return nil, fmt.Errorf("%s is no address of this host: its GPU memory is seen by a collector there", host)
	}
	return nil, fmt.Errorf("no visible process listens on port %d of this host: the server is down, in a container whose processes this collector does not see, "+
		"or in one whose port the kernel forwards (name the container's own address in endpoint)", port)
}

// publishes returns where Docker's proxy passes connections on to; ok is false
// for a process that is none.
func (f *Finder) publishes(pid int) (host string, port uint16, ok bool) {
	line, err := os.ReadFile(f.path(pid, "cmdline"))
	if err != nil {
		return "", 0, false
	}
	args := strings.Split(string(line), "\x00")
	if filepath.Base(args[0]) != "docker-proxy" {
		return "", 0, false
	}
	value := func(name string) string {
		if at := slices.Index(args, name); at >= 0 && at+1 < len(args) {
			return args[at+1]
		}
		return ""
	}
	n, err := strconv.ParseUint(value("-container-port"), 10, 16)
	host = value("-container-ip")
	return host, uint16(n), err == nil && host != ""
}

func (f *Finder) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return plain([]netip.Addr{a}), nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	addresses, err := f.lookup(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("the endpoint's host cannot be resolved: %w", err)
	}
	return plain(addresses), nil
}

// plain rewrites addresses as the tables have them. A connection to 0.0.0.0 goes
// to the loopback address.
func plain(addresses []netip.Addr) []netip.Addr {
	for i, a := range addresses {
		a = a.Unmap().WithZone("")
		switch a {
		case netip.IPv4Unspecified():
			a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case netip.IPv6Unspecified():
			a = netip.IPv6Loopback()
		}
		addresses[i] = a
	}
	return addresses
}

// spaces are the folders of network tables, one for each namespace, that of this
// process first. Loopback addresses mean this one only.
func (f *Finder) spaces(addresses []netip.Addr) []string {
	own := filepath.Join(f.proc, "self", "net")
	spaces := []string{own}
	if !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return !a.IsLoopback() }) {
		return spaces
	}
	seen := map[string]bool{}
	if id, err := os.Readlink(filepath.Join(f.proc, "self", "ns", "net")); err == nil {
		seen[id] = true
	}
	for _, pid := range f.all() {
		id, err := os.Readlink(f.path(pid, "ns", "net"))
		if err != nil || seen[id] {
			continue
		}
		seen[id] = true
		spaces = append(spaces, f.path(pid, "net"))
	}
	return spaces
}

// isLocal reports whether an address belongs to a network namespace.
func (f *Finder) isLocal(space string, a netip.Addr) bool {
	if a.IsLoopback() {
		return space == filepath.Join(f.proc, "self", "net")
	}
	if a.Is4() {
		table, _ := os.ReadFile(filepath.Join(space, "fib_trie"))
		_, rest, ok := strings.Cut(string(table), "|-- "+a.String()+"\n")
		for ok {
			line, _, _ := strings.Cut(rest, "\n")
			if strings.Contains(line, "/32 host LOCAL") {
				return true
			}
			_, rest, ok = strings.Cut(rest, "|-- "+a.String()+"\n")
		}
		return false
	}
	table, _ := os.ReadFile(filepath.Join(space, "if_inet6"))
	b := a.As16()
	return strings.Contains(string(table), hex.EncodeToString(b[:]))
}

// listeners are the inodes of the sockets that accept connections to one of the
// addresses.
func (f *Finder) listeners(space string, addresses []netip.Addr, port uint16) map[string]bool {
	const listening = "0A"
	inodes := map[string]bool{}
	for _, name := range [...]string{"tcp", "tcp6"} {
		table, err := os.ReadFile(filepath.Join(space, name))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != listening {
				continue
			}
			at, on, ok := parseSocket(fields[1])
			if !ok || on != port {
				continue
			}
			if at.IsUnspecified() || slices.Contains(addresses, at.Unmap()) {
				inodes[fields[9]] = true
			}
		}
	}
	return inodes
}

// parseSocket reads 0100007F:1F90: words in the byte order of the machine, which
// is little-endian wherever NVIDIA's driver runs.
func parseSocket(s string) (netip.Addr, uint16, bool) {
	address, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(address)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, 0, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	a, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	return a, uint16(n), ok && err == nil
}

// owners are the processes that hold one of the sockets open. systemd does not
// count: it opens sockets on behalf of services, and everything is its child.
func (f *Finder) owners(inodes map[string]bool, port uint16) ([]process, error) {
	var owners []process
	denied, systemd := false, false
	for _, pid := range f.all() {
		holds, err := f.holds(pid, inodes)
		denied = denied || errors.Is(err, fs.ErrPermission)
		if !holds {
			continue
		}
		if name, _ := os.ReadFile(f.path(pid, "comm")); pid == 1 && string(name) == "systemd\n" {
			systemd = true
			continue
		}
		if start, _, ok := f.stat(pid); ok {
			owners = append(owners, process{pid, start})
		}
	}
	switch {
	case len(owners) > 0:
		return owners, nil
	case denied:
		return nil, fmt.Errorf("the process that listens on port %d is another user's: run the collector as that user, or give it CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH", port)
	case systemd:
		return nil, fmt.Errorf("systemd listens on port %d until the server is started by the first request", port)
	}
	return nil, fmt.Errorf("the process that listens on port %d is not visible: it runs in another process namespace "+
		"(give this collector the host's: hostPID in Kubernetes, --pid=host in Docker)", port)
}

// holds reports whether a process has one of the sockets open.
func (f *Finder) holds(pid int, inodes map[string]bool) (bool, error) {
	folder := f.path(pid, "fd")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(folder, e.Name()))
		if err != nil {
			continue
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if ok && inodes[strings.TrimSuffix(inode, "]")] {
			return true, nil
		}
	}
	return false, nil
}
