// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package page is the live page: what the browser is sent, and the same page as a
// file that needs no collector.
package page // import "github.com/llamatelemetry/otelcol-llamacpp/exporter/dashboardexporter/page"

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed www
var files embed.FS

// importMapMark stands in index.html for the import map.
const importMapMark = "IMPORTMAP"

// contentTypes by extension; the system's list of types differs between systems.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	"":      "text/plain; charset=utf-8",
}

// asset is a file as it is served.
type asset struct {
	content, compressed []byte
	etag, contentType   string
}

func newAsset(name string, content []byte) (*asset, error) {
	sum := sha256.Sum256(content)
	a := &asset{content: content, etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
	a.contentType = contentTypes[path.Ext(name)]
	if a.contentType == "" {
		a.contentType = contentTypes[""]
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	a.compressed = b.Bytes()
	return a, nil
}

// assets are all files by their path in the URL; the page itself is "/".
type assets struct {
	byPath map[string]*asset
	policy string
}

// load is called once: the files are in the program, so that an error is one of
// the build, which a test would find.
var load = sync.OnceValues(func() (*assets, error) {
	list := &assets{byPath: map[string]*asset{}}
	names, err := modules()
	if err != nil {
		return nil, err
	}
	urls := map[string]string{}
	for _, name := range names {
		urls["#page/"+name] = "./assets/" + name
	}
	importMap, err := json.Marshal(map[string]any{"imports": urls})
	if err != nil {
		return nil, err
	}
	list.policy = policy(hash(importMap))
	err = fs.WalkDir(files, "www", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(file)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(file, "www/")
		url := "/assets/" + name
		if name == "index.html" {
			url = "/"
			content = bytes.Replace(content, []byte(importMapMark), importMap, 1)
		}
		list.byPath[url], err = newAsset(name, content)
		return err
	})
	return list, err
})

// modules are the paths below www of what is imported by a bare name.
func modules() ([]string, error) {
	var names []string
	for _, pattern := range []string{"www/*.js", "www/vendor/*.js"} {
		found, err := fs.Glob(files, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			if strings.HasSuffix(name, ".min.js") || name == "www/main.js" {
				continue
			}
			names = append(names, strings.TrimPrefix(name, "www/"))
		}
	}
	slices.Sort(names)
	return names, nil
}

// hash is how a content security policy names an inline script.
func hash(script []byte) string {
	sum := sha256.Sum256(script)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// policy is the content security policy of the page: nothing but itself.
func policy(importMap string) string {
	return strings.Join([]string{
		"default-src 'none'",
		"script-src 'self' " + importMap,
		"style-src 'self'",
		"connect-src 'self'",
		"img-src 'self' data:",
		"require-trusted-types-for 'script'",
		"trusted-types lit-html",
		"frame-ancestors 'none'",
		"base-uri 'none'",
		"form-action 'none'",
	}, "; ")
}

// Handler serves the page at / and what it consists of at /assets/. All is
// answered from memory, compressed where the browser takes it.
func Handler() (http.Handler, error) {
	list, err := load()
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	return http.HandlerFunc(list.serve), nil
}

func (l *assets) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", l.policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "the page is only read: use GET", http.StatusMethodNotAllowed)
		return
	}
	a, ok := l.byPath[r.URL.Path]
	if !ok {
		http.Error(w, r.URL.Path+": no such page: the live page is at /", http.StatusNotFound)
		return
	}
	// Names stay when contents change, so that the browser asks each time.
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", a.etag)
	h.Set("Vary", "Accept-Encoding")
	if matches(r.Header.Get("If-None-Match"), a.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", a.contentType)
	content := a.content
	if acceptsGzip(r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		content = a.compressed
	}
	h.Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(content) // the client has gone
	}
}

// matches reports whether a list of ETags has one, weak or not: a proxy that
// compresses makes it weak.
func matches(list, etag string) bool {
	for tag := range strings.SplitSeq(list, ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
			return true
		}
	}
	return strings.TrimSpace(list) == "*"
}

func acceptsGzip(header string) bool {
	for coding := range strings.SplitSeq(header, ",") {
		name, weight, _ := strings.Cut(coding, ";")
		if strings.TrimSpace(name) != "gzip" {
			continue
		}
		_, q, ok := strings.Cut(weight, "=")
		value, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !ok || (err == nil && value > 0)
	}
	return false
}
