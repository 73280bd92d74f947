// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package endpoint reads the base URL of a server and names the server after it,
// so that all components call one server by the same name.
package endpoint // import "github.com/llamatelemetry/otelcol-llamacpp/internal/endpoint"

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Endpoint is where a server takes requests.
type Endpoint struct {
	// URL is the base URL, without a slash at its end.
	URL *url.URL
	// Address is the host name or IP address, without brackets.
	Address string
	Port    int64
	// Instance is host:port, followed by the path, if any: service.instance.id.
	Instance string
}

// page matches the end of a path that is no base URL's: what OpenAI's clients
// want, or a path copied from a request. /models is left out, as it may well be
// a prefix (--api-prefix).
var page = regexp.MustCompile(`(/v1)?/(v1|metrics|slots|health|props|v1/models|(chat/)?completions?|embeddings?|responses|messages|infill|tokenize|rerank)$`)

// Parse reads the base URL of a server. Its errors say what a right one looks
// like, and never repeat credentials.
func Parse(base string) (Endpoint, error) {
	const want = "want http://host:port or https://host:port, with a path if the server has a prefix"
	u, err := url.Parse(base)
	switch {
	case err != nil:
		var e *url.Error
		if errors.As(err, &e) { // its text would repeat the address, password included
			err = e.Err
		}
		return Endpoint{}, fmt.Errorf("%w: %s", err, want)
	case u.Scheme != "http" && u.Scheme != "https":
		return Endpoint{}, fmt.Errorf("scheme %q: %s", u.Scheme, want)
	case u.Hostname() == "":
		return Endpoint{}, fmt.Errorf("no host: %s", want)
	case u.RawQuery != "" || u.Fragment != "":
		return Endpoint{}, fmt.Errorf("query or fragment: %s", want)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = strings.TrimRight(u.RawPath, "/")
	if page := page.FindString(u.Path); page != "" {
		base := url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, page)}
		return Endpoint{}, fmt.Errorf("ends in %s, which is a page of the server: want %s", page, &base)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Endpoint{}, fmt.Errorf("port %s: %s", port, want)
	}
	return Endpoint{
		URL:      u,
		Address:  u.Hostname(),
		Port:     int64(n),
		Instance: net.JoinHostPort(u.Hostname(), port) + u.Path,
	}, nil
}
