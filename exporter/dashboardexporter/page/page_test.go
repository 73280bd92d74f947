// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func get(t *testing.T, method, path string, header map[string]string) *httptest.ResponseRecorder {
	t.Helper()
	handler, err := Handler()
	require.NoError(t, err)
	r := httptest.NewRequest(method, path, nil)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestHandler_PageHasOnlyItsOwnFilesAndAllOfThem(t *testing.T) {
	r := get(t, http.MethodGet, "/", nil)
	assert.Equal(t, http.StatusOK, r.Code)
	assert.Equal(t, "text/html; charset=utf-8", r.Header().Get("Content-Type"))
	html := r.Body.String()
	assert.NotContains(t, html, importMapMark)

	for _, m := range regexp.MustCompile(`(?:src|href)="(assets/[^"]+)"`).FindAllStringSubmatch(html, -1) {
		assert.Equal(t, http.StatusOK, get(t, http.MethodGet, "/"+m[1], nil).Code, m[1])
	}
	var imports struct{ Imports map[string]string }
	script := regexp.MustCompile(`<script type="importmap">(.*)</script>`).FindStringSubmatch(html)
	require.Len(t, script, 2)
	require.NoError(t, json.Unmarshal([]byte(script[1]), &imports))
	assert.Contains(t, imports.Imports, "#page/store.js")
	assert.Contains(t, imports.Imports, "#page/vendor/lit-html.js")
	for name, url := range imports.Imports {
		r := get(t, http.MethodGet, strings.TrimPrefix(url, "."), nil)
		assert.Equal(t, http.StatusOK, r.Code, name)
		assert.Equal(t, "text/javascript; charset=utf-8", r.Header().Get("Content-Type"), name)
	}
}

func TestHandler_PolicyNamesTheImportMapAndAllowsNothingElseInline(t *testing.T) {
	r := get(t, http.MethodGet, "/", nil)
	policy := r.Header().Get("Content-Security-Policy")
	script := regexp.MustCompile(`<script type="importmap">(.*)</script>`).FindStringSubmatch(r.Body.String())
	require.Len(t, script, 2)
	assert.Contains(t, policy, "script-src 'self' "+hash([]byte(script[1]))+";")
	assert.Contains(t, policy, "default-src 'none'")
	assert.Contains(t, policy, "require-trusted-types-for 'script'")
	assert.NotContains(t, policy, "unsafe")
	assert.Equal(t, "nosniff", r.Header().Get("X-Content-Type-Options"))
	assert.Equal(t, "no-referrer", r.Header().Get("Referrer-Policy"))
}

// A style attribute, or a script in the page, would be refused by the policy, and
// only in the browser.
func TestFiles_HaveNothingInline(t *testing.T) {
	inline := regexp.MustCompile(`\sstyle="|\sstyle=\$|\son[a-z]+="|<style`)
	relative := regexp.MustCompile(`(?:from|import) ?\(?["'](?:\.|/)`)
	require.NoError(t, fs.WalkDir(files, "www", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.Contains(name, "/vendor/") {
			return err
		}
		content, err := files.ReadFile(name)
		require.NoError(t, err)
		assert.NotRegexp(t, inline, string(content), name)
		assert.NotRegexp(t, relative, string(content), "%s: an exported file has no paths: import #page/…", name)
		return nil
	}))
}

func TestHandler_AnswersFromTheBrowsersCache(t *testing.T) {
	first := get(t, http.MethodGet, "/assets/main.js", nil)
	etag := first.Header().Get("ETag")
	require.NotEmpty(t, etag)
	for _, tag := range []string{etag, "W/" + etag, `"other", ` + etag} {
		again := get(t, http.MethodGet, "/assets/main.js", map[string]string{"If-None-Match": tag})
		assert.Equal(t, http.StatusNotModified, again.Code, tag)
		assert.Empty(t, again.Body.String())
	}
	assert.Equal(t, http.StatusOK, get(t, http.MethodGet, "/assets/main.js", map[string]string{"If-None-Match": `"other"`}).Code)
}

func TestHandler_CompressesForThoseWhoTakeIt(t *testing.T) {
	plain := get(t, http.MethodGet, "/assets/page.css", nil).Body.String()
	r := get(t, http.MethodGet, "/assets/page.css", map[string]string{"Accept-Encoding": "br, gzip;q=0.8"})
	require.Equal(t, "gzip", r.Header().Get("Content-Encoding"))
	z, err := gzip.NewReader(r.Body)
	require.NoError(t, err)
	unpacked, err := io.ReadAll(z)
	require.NoError(t, err)
	assert.Equal(t, plain, string(unpacked))
	for _, header := range []string{"", "br", "gzip;q=0", "gzip; q=0.0"} {
		assert.Empty(t, get(t, http.MethodGet, "/assets/page.css", map[string]string{"Accept-Encoding": header}).Header().Get("Content-Encoding"), header)
	}
}

func TestHandler_RefusesWhatItDoesNotHave(t *testing.T) {
	for _, path := range []string{"/nothing", "/assets/", "/assets/nothing.js", "/assets/index.html", "/assets/../page.go"} {
		assert.Equal(t, http.StatusNotFound, get(t, http.MethodGet, path, nil).Code, path)
	}
	r := get(t, http.MethodPost, "/", nil)
	assert.Equal(t, http.StatusMethodNotAllowed, r.Code)
	assert.Equal(t, "GET, HEAD", r.Header().Get("Allow"))
	head := get(t, http.MethodHead, "/", nil)
	assert.Equal(t, http.StatusOK, head.Code)
	assert.Empty(t, head.Body.String())
}

func TestPage_WeighsLessThan100KilobytesCompressed(t *testing.T) {
	list, err := load()
	require.NoError(t, err)
	total := 0
	for url, a := range list.byPath {
		if !strings.HasSuffix(url, "LICENSE") && !strings.HasSuffix(url, ".json") {
			total += len(a.compressed)
		}
	}
	t.Logf("%d bytes", total)
	assert.Less(t, total, 100_000)
}

func TestExport_IsOneFileWithoutAnythingOutside(t *testing.T) {
	var b bytes.Buffer
	hostile := `</script><script>alert(1)</script><!--` + "\u2028"
	snapshot := json.RawMessage(`{"server":"` + "</script>" + `"}`)
	require.NoError(t, Export(&b, Data{Kind: KindView, Catalogue: map[string]string{"version": hostile}, Snapshot: snapshot}))
	html := b.String()
	assert.NotRegexp(t, `(?:src|href)="(?:assets|https?:|/)`, html)
	assert.NotContains(t, html, "alert(1)</script>")
	assert.Equal(t, strings.Count(html, "<script"), strings.Count(html, "</script>"))

	m := regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`).FindStringSubmatch(html)
	require.Len(t, m, 2)
	var data struct {
		Kind      string
		Catalogue struct{ Version string }
		Snapshot  struct{ Server string }
	}
	require.NoError(t, json.Unmarshal([]byte(m[1]), &data))
	assert.Equal(t, "view", data.Kind)
	assert.Equal(t, hostile, data.Catalogue.Version)
	assert.Equal(t, "</script>", data.Snapshot.Server)

	// Each inline script is named by the file's own policy.
	policy := regexp.MustCompile(`<meta http-equiv="Content-Security-Policy" content="([^"]*)">`).FindStringSubmatch(html)
	require.Len(t, policy, 2)
	for _, script := range regexp.MustCompile(`(?s)<script(?: type="(?:importmap|module)")?>(.*?)</script>`).FindAllStringSubmatch(html, -1) {
		assert.Contains(t, policy[1], hash([]byte(script[1])))
	}
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(html)
	require.Len(t, style, 2)
	assert.Contains(t, policy[1], hash([]byte(style[1])))
}

func TestExport_TakesReportsOfLoadTests(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, Export(&b, Data{Kind: KindLoad, Reports: []any{map[string]any{"run": map[string]string{"url": "http://localhost:8080"}}}}))
	assert.Contains(t, b.String(), `{"kind":"load","reports":[{"run":{"url":"http://localhost:8080"}}]}`)
	assert.ErrorContains(t, Export(&b, Data{}), `export of "": want view or load`)
}

// The modules have types, which are checked, and tests of their own.
func TestModules(t *testing.T) {
	if testing.Short() {
		t.Skip("runs npm")
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("npm is not on PATH, and in CI the page's modules have to be tested: install Node.js 20 or newer")
		}
		t.Skip("npm is not on PATH: install Node.js 20 or newer, such as by apt-get install nodejs npm, to test the page's modules")
	}
	run := func(args ...string) {
		cmd := exec.CommandContext(t.Context(), npm, args...)
		cmd.Env = append(os.Environ(), "NO_UPDATE_NOTIFIER=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "npm %s, in %s:\n%s", strings.Join(args, " "), mustGetwd(t), out)
	}
	if stale(t) {
		run("ci", "--no-audit", "--no-fund")
	}
	run("test")
}

// stale reports whether the packages are not those of the lock file.
func stale(t *testing.T) bool {
	t.Helper()
	lock, err := os.Stat("package-lock.json")
	require.NoError(t, err)
	installed, err := os.Stat(filepath.Join("node_modules", ".package-lock.json"))
	return err != nil || installed.ModTime().Before(lock.ModTime())
}

func mustGetwd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	return dir
}
