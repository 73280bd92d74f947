// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
)

const (
	root    = "../.."
	version = "1.2.3"
)

// work is a folder for the time of the tests: in programs is what is packed, in
// 0 and 1 what it is packed into.
var work string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if work, err = os.MkdirTemp("", "packaging-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(work)
		return m.Run()
	}())
}

// packages packs the same programs twice, the second time as make release does,
// and returns the folders.
var packages = sync.OnceValues(func() (folders [2]string, err error) {
	programs := filepath.Join(work, "programs")
	for i := range folders {
		folders[i] = filepath.Join(work, strconv.Itoa(i))
	}
	commands := [2]*exec.Cmd{
		exec.Command(root+"/tools/package", version, "linux", runtime.GOARCH, programs, folders[0]),
		exec.Command(root+"/tools/release", version, folders[1], "linux/"+runtime.GOARCH),
	}
	var wait sync.WaitGroup
	var failed [2]error
	for i, pack := range commands {
		wait.Go(func() {
			// Whoever builds: in another folder and time zone.
			pack.Env = append(os.Environ(), "PROGRAMS="+programs, "SOURCE_DATE_EPOCH=1700000000", fmt.Sprintf("TZ=Etc/GMT+%d", i))
			if output, err := pack.CombinedOutput(); err != nil {
				failed[i] = fmt.Errorf("%s: %w: make packaging-tools\n%s", pack.Path, err, output)
			}
		})
	}
	wait.Wait()
	return folders, errors.Join(failed[:]...)
})

// packed is the folder with the packages of this platform.
func packed(tb testing.TB) string {
	tb.Helper()
	return packedTwice(tb)[0]
}

func packedTwice(tb testing.TB) [2]string {
	tb.Helper()
	program := collectortest.Program(tb)
	programs := filepath.Join(work, "programs")
	require.NoError(tb, os.MkdirAll(programs, 0o755))
	for _, path := range []string{program, filepath.Join(filepath.Dir(program), "llamaload")} {
		if _, err := os.Stat(path); err != nil {
			tb.Fatalf("%v: make build", err)
		}
		if err := os.Symlink(path, filepath.Join(programs, filepath.Base(path))); err != nil && !errors.Is(err, os.ErrExist) {
			tb.Fatal(err)
		}
	}
	folders, err := packages()
	if err != nil {
		tb.Fatal(err)
	}
	return folders
}

// name is a file of the packages.
func name(ending string) string {
	return "otelcol-llamacpp_" + version + "_" + map[string]string{
		"deb": runtime.GOARCH + ".deb", "tar": "linux_" + runtime.GOARCH + ".tar.gz", "sbom": "linux_" + runtime.GOARCH + ".cdx.json",
	}[ending]
}

func TestTheSameProgramsGiveTheSameBytes(t *testing.T) {
	folders := packedTwice(t)
	for _, ending := range []string{"deb", "tar", "sbom"} {
		first, err := os.ReadFile(filepath.Join(folders[0], name(ending)))
		require.NoError(t, err)
		second, err := os.ReadFile(filepath.Join(folders[1], name(ending)))
		require.NoError(t, err)
		assert.Equal(t, sha256.Sum256(first), sha256.Sum256(second), name(ending))
	}
}

func TestReleaseHasTheChecksumsOfAllItsFiles(t *testing.T) {
	folder := packedTwice(t)[1]
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = folder
	output, err := check.CombinedOutput()
	require.NoError(t, err, "%s", output)
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	assert.Len(t, files, 1+strings.Count(string(output), ": OK\n"))
}

func TestArchiveHasProgramsLicensesAndExamples(t *testing.T) {
	list := exec.Command("tar", "--list", "--verbose", "--numeric-owner", "--full-time", "--utc", "--file", filepath.Join(packed(t), name("tar")))
	output, err := list.CombinedOutput()
	require.NoError(t, err, "%s", output)
	modes := map[string]string{}
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line) // mode, owner, size, date, time, path
		require.Len(t, fields, 6, line)
		assert.Equal(t, "0/0 2023-11-14 22:13:20", fields[1]+" "+fields[3]+" "+fields[4], "owner and time: %s", line)
		modes[strings.TrimPrefix(fields[5], "otelcol-llamacpp_"+version+"_linux_"+runtime.GOARCH+"/")] = fields[0]
	}
	for path, mode := range map[string]string{
		"otelcol-llamacpp": "-rwxr-xr-x", "llamaload": "-rwxr-xr-x", "LICENSE": "-rw-r--r--", "README.md": "-rw-r--r--", "CHANGELOG.md": "-rw-r--r--",
		"THIRD-PARTY-NOTICES": "-rw-r--r--", "collector-config.yaml": "-rw-r--r--", "examples/otlp-out.yaml": "-rw-r--r--", "docs/gpu.md": "-rw-r--r--",
	} {
		assert.Equal(t, mode, modes[path], path)
	}
}

func TestBillOfMaterialsNamesEveryModuleAndItsLicense(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(packed(t), name("sbom")))
	require.NoError(t, err)
	var bom struct {
		Format     string `json:"bomFormat"`
		Components []struct {
			Name, Version, Purl string
			Licenses            []struct{ License struct{ ID string } }
		}
	}
	require.NoError(t, json.Unmarshal(data, &bom))
	assert.Equal(t, "CycloneDX", bom.Format)

	listed := map[string]bool{}
	allowed := []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}
	for _, c := range bom.Components {
		listed[c.Purl] = true
		assert.NotEmpty(t, c.Licenses, c.Name)
		for _, l := range c.Licenses {
			assert.Contains(t, allowed, l.License.ID, "license of %s: may it be distributed with Apache-2.0?", c.Name)
		}
	}
	for _, program := range []string{"otelcol-llamacpp", "llamaload"} {
		output, err := exec.Command("go", "version", "-m", filepath.Join(work, "programs", program)).Output()
		require.NoError(t, err)
		modules := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)\th1:`).FindAllStringSubmatch(string(output), -1)
		require.NotEmpty(t, modules)
		for _, m := range modules {
			assert.True(t, listed["pkg:golang/"+m[1]+"@"+m[2]], "%s %s of %s", m[1], m[2], program)
		}
	}
	for _, want := range []string{"pkg:golang/std@", "pkg:npm/uplot@", "pkg:npm/lit-html@"} {
		assert.Regexp(t, "(?m)^"+want, strings.Join(slices.Collect(maps.Keys(listed)), "\n"))
	}
}

// control runs dpkg-deb on the package.
func control(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("dpkg-deb")
	require.NoError(t, err, "apt-get install dpkg")
	output, err := exec.Command(path, append(args, filepath.Join(packed(t), name("deb")))...).CombinedOutput()
	require.NoError(t, err, "%s", output)
	return string(output)
}

func TestDebianPackageHasWhatItShould(t *testing.T) {
	contents := control(t, "--contents")
	for _, want := range []string{
		`-rwxr-xr-x root/root .* \./usr/bin/otelcol-llamacpp`,
		`-rwxr-xr-x root/root .* \./usr/bin/llamaload`,
		`-rw-r--r-- root/root .* \./usr/lib/systemd/system/otelcol-llamacpp\.service`,
		`-rw-r--r-- root/root .* \./etc/otelcol-llamacpp/config\.yaml`,
		`-rw-r--r-- root/root .* \./etc/otelcol-llamacpp/journald\.yaml`,
		`-rw------- root/root .* \./etc/default/otelcol-llamacpp`,
		`-rw-r--r-- root/root .* \./usr/share/doc/otelcol-llamacpp/copyright`,
		`-rw-r--r-- root/root .* \./usr/share/doc/otelcol-llamacpp/changelog\.gz`,
		`-rw-r--r-- root/root .* \./usr/share/doc/otelcol-llamacpp/THIRD-PARTY-NOTICES\.gz`,
		`-rw-r--r-- root/root .* \./usr/share/doc/otelcol-llamacpp/examples/otlp-out\.yaml`,
		`-rw-r--r-- root/root .* \./usr/share/bash-completion/completions/llamaload`,
	} {
		assert.Regexp(t, `(?m)^`+want+`$`, contents)
	}
	info := control(t, "--field")
	assert.Contains(t, info, "Version: "+version+"\n")
	assert.Contains(t, info, "Architecture: "+runtime.GOARCH+"\n")
	assert.Contains(t, info, "Recommends: systemd, ca-certificates\n")
}

// The collector is linked with the C library of whoever built it.
func TestDebianPackageDependsOnTheCLibraryThatTheCollectorNeeds(t *testing.T) {
	stated := regexp.MustCompile(`libc6 \(>= 2\.(\d+)\)`).FindStringSubmatch(control(t, "--field"))
	require.NotNil(t, stated)
	dependsOn, err := strconv.Atoi(stated[1])
	require.NoError(t, err)

	program, err := elf.Open(collectortest.Program(t))
	require.NoError(t, err)
	defer program.Close()
	symbols, err := program.ImportedSymbols()
	require.NoError(t, err)
	newest := 0
	for _, s := range symbols {
		if minor, ok := strings.CutPrefix(s.Version, "GLIBC_2."); ok {
			minor, _, _ = strings.Cut(minor, ".")
			n, err := strconv.Atoi(minor)
			require.NoError(t, err, s.Version)
			newest = max(newest, n)
		}
	}
	require.NotZero(t, newest)
	assert.Equal(t, newest, dependsOn, "set libc6 in packaging/nfpm.yaml")
}

// The shipped configuration reads the journal as the example does.
func TestJournalIsReadAsInTheExample(t *testing.T) {
	read := func(file string) any {
		data, err := os.ReadFile(filepath.Join(root, file))
		require.NoError(t, err)
		var config struct{ Receivers map[string]any }
		require.NoError(t, yaml.Unmarshal(data, &config))
		require.NotNil(t, config.Receivers["journald"])
		return config.Receivers["journald"]
	}
	assert.Equal(t, read("examples/log-systemd.yaml"), read("packaging/journald.yaml"))
}
