// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package webguard keeps web pages of other sites away from a server that a user's
// browser can reach.
package webguard // import "github.com/llamatelemetry/otelcol-llamacpp/internal/webguard"

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Guard says which requests a server answers.
//
// A page of another site can send requests to this server from a user's browser.
// Those that change something are refused because of their origin. With DNS
// rebinding, the page can also reach this server under its own domain name, as if
// both had the same origin. Therefore, without authentication, the Host header must
// be a name or an address that nobody else can have, and changes need localhost or
// a loopback address.
//
// A program may send any Host. Therefore, without authentication, changes also need
// a connection from this machine. What a proxy on this machine passes on is such a
// connection, whoever sent it. Reading is not protected from programs.
type Guard struct {
	// Authenticated says that the server asks for credentials, which a page
	// elsewhere does not have. Any Host is answered then.
	Authenticated bool
	// LoopbackOnly refuses addresses of the network as well, unless Hosts has them.
	LoopbackOnly bool
	// Hosts are names and addresses, without port, under which the server may also
	// be read.
	Hosts []string
	// ReadOnly says that nothing can be changed by any method. Prometheus' API takes
	// long queries by POST.
	ReadOnly bool
	// Refuse answers a request that is refused, with the status 403 and the reason.
	Refuse func(w http.ResponseWriter, reason string)
}

// Protect returns a handler that passes on to next what the guard lets through.
func (g Guard) Protect(next http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	allowed := make([]string, 0, len(g.Hosts))
	for _, h := range g.Hosts {
		allowed = append(allowed, canonical(h))
	}
	unknown := "the Host header is neither localhost nor an address: use one, or configure auth"
	if g.LoopbackOnly {
		unknown = "the Host header is neither localhost nor a host that the configuration allows: use localhost, allow this host, or configure auth"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := origins.Check(r); err != nil {
			g.Refuse(w, "cross-origin request: pages of other sites may not make changes; use a program, or a page of this server")
			return
		}
		if !g.Authenticated {
			name := canonical(r.Host)
			address, loopback := host(name)
			switch {
			case !loopback && (!address || g.LoopbackOnly) && !slices.Contains(allowed, name):
				g.Refuse(w, unknown)
				return
			case g.ReadOnly || r.Method == http.MethodGet || r.Method == http.MethodHead:
			case !loopback:
				g.Refuse(w, "only localhost may make changes unless auth is configured")
				return
			case !fromHere(r):
				g.Refuse(w, "only programs on the collector's machine may make changes unless auth is configured, and this request comes from "+
					r.RemoteAddr+": send it from there, inside the container if there is one, or configure auth")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// fromHere reports whether a request has come over a loopback address, or a Unix
// socket, whose file says who may use it.
func fromHere(r *http.Request) bool {
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && at.Network() == "unix" {
		return true
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback()
}

// canonical returns the host of a Host header in the one form in which it is
// compared.
func canonical(header string) string {
	name, _, err := net.SplitHostPort(header)
	if err != nil {
		name = strings.Trim(header, "[]")
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.Unmap().String()
	}
	return strings.ToLower(name)
}

// host reports whether a host is an IP address or localhost, neither of which a
// foreign DNS server can resolve, and whether it is a loopback address.
func host(name string) (address, loopback bool) {
	if name == "localhost" {
		return true, true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil, err == nil && ip.IsLoopback()
}
