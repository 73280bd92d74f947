// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command bom says what is in Go programs: as a bill of materials in CycloneDX's
// format, and as the texts of the licenses. It reads the list of modules that Go
// leaves in each program, and takes the licenses from the module cache. The same
// programs give the same bytes.
//
//	bom -version 1.2.3 -sbom out.cdx.json -notices THIRD-PARTY-NOTICES [-with name@version=LICENSE]… program…
package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// own is the prefix of this repository's modules, which are no third party's.
const own = "github.com/llamatelemetry/otelcol-llamacpp"

// part is something that is in a program.
type part struct {
	name, version string
	purl          string
	sum           string // SHA-256 of the module as Go's checksum database has it, in hexadecimal
	licenses      []string
	texts         []text
}

type text struct{ file, content string }

func main() {
	version := flag.String("version", "", "version of the programs")
	sbom := flag.String("sbom", "", "file for the bill of materials")
	notices := flag.String("notices", "", "file for the texts of the licenses")
	var with []string
	flag.Func("with", "name@version=FILE: an npm package in the programs, with the file of its license", func(s string) error {
		with = append(with, s)
		return nil
	})
	flag.Parse()
	if err := run(*version, *sbom, *notices, with, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bom:", err)
		os.Exit(1)
	}
}

func run(version, sbom, notices string, with, programs []string) error {
	if version == "" || sbom == "" || notices == "" || len(programs) == 0 {
		return errors.New("want -version, -sbom, -notices and programs")
	}
	parts := map[string]*part{}
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return err
		}
		if err := add(parts, info); err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
	}
	for _, w := range with {
		p, err := npm(w)
		if err != nil {
			return err
		}
		parts[p.purl] = p
	}
	all := slices.SortedFunc(maps.Values(parts), func(a, b *part) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.version, b.version))
	})
	var unknown []error
	for _, p := range all {
		if len(p.licenses) == 0 {
			unknown = append(unknown, fmt.Errorf("%s %s: no license that is known", p.name, p.version))
		}
	}
	if err := errors.Join(unknown...); err != nil {
		return err
	}
	data, err := json.MarshalIndent(bill(version, all), "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(sbom, append(data, '\n'), 0o644); err != nil { //nolint:gosec // G306: it is to be published
		return err
	}
	return os.WriteFile(notices, []byte(notice(all)), 0o644) //nolint:gosec // G306: it is to be published
}

// add adds the modules of a program and Go's own library.
func add(parts map[string]*part, info *debug.BuildInfo) error {
	std := &part{name: "std", version: strings.TrimPrefix(info.GoVersion, "go")}
	std.purl = "pkg:golang/std@" + std.version
	goroot, err := output("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	if err := std.read(os.DirFS(goroot)); err != nil {
		return err
	}
	if len(std.texts) == 0 { // Debian's Go has it elsewhere; it is the license of golang.org/x
		return fmt.Errorf("no license of Go in %s", goroot)
	}
	parts[std.purl] = std

	cache, err := output("go", "env", "GOMODCACHE")
	if err != nil {
		return err
	}
	for _, m := range info.Deps {
		if m.Path == own || strings.HasPrefix(m.Path, own+"/") {
			continue
		}
		if m.Replace != nil {
			m = m.Replace
		}
		p := &part{name: m.Path, version: m.Version, purl: "pkg:golang/" + m.Path + "@" + m.Version}
		if parts[p.purl] != nil {
			continue
		}
		if sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err == nil {
			p.sum = hex.EncodeToString(sum)
		}
		folder := filepath.Join(cache, escape(m.Path)+"@"+escape(m.Version))
		if _, err := os.Stat(folder); err != nil {
			return fmt.Errorf("%w: build the program on this machine, so that its modules are in the cache", err)
		}
		if err := p.read(os.DirFS(folder)); err != nil {
			return err
		}
		parts[p.purl] = p
	}
	return nil
}

// escape is how the module cache writes a path or version.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

var licenseFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|notice|patents)([-._].*)?$`)

// read reads the license of a module from its folder.
func (p *part) read(folder fs.FS) error {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() || !licenseFile.MatchString(e.Name()) || path.Ext(e.Name()) == ".go" {
			continue
		}
		content, err := fs.ReadFile(folder, e.Name())
		if err != nil {
			return err
		}
		p.take(e.Name(), string(content))
	}
	return nil
}

func (p *part) take(file, content string) {
	content = strings.TrimSpace(strings.ReplaceAll(content, "\r\n", "\n"))
	p.texts = append(p.texts, text{file, content})
	for _, match := range licensecheck.Scan([]byte(content)).Match {
		// A grant of patents comes beside a license, and is none.
		if match.IsURL || match.ID == "GooglePatentsFile" {
			continue
		}
		if !slices.Contains(p.licenses, match.ID) {
			p.licenses = append(p.licenses, match.ID)
		}
	}
	slices.Sort(p.licenses)
}

// npm is the package that an argument name@version=file describes.
func npm(argument string) (*part, error) {
	id, file, ok := strings.Cut(argument, "=")
	name, version, ok2 := strings.Cut(id, "@")
	if !ok || !ok2 {
		return nil, fmt.Errorf("-with %s: want name@version=FILE", argument)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := &part{name: name, version: version, purl: "pkg:npm/" + name + "@" + version}
	p.take(filepath.Base(file), string(content))
	return p, nil
}

// notice is the licenses as text. A text that several parts have in common is
// there once, after the names of these.
func notice(all []*part) string {
	var b strings.Builder
	b.WriteString("The programs of otelcol-llamacpp contain the following, under these licenses.\n")
	var order []string
	names := map[string][]string{}
	for _, p := range all {
		for _, t := range p.texts {
			if names[t.content] == nil {
				order = append(order, t.content)
			}
			names[t.content] = append(names[t.content], fmt.Sprintf("%s %s (%s)", p.name, p.version, t.file))
		}
	}
	for _, content := range order {
		fmt.Fprintf(&b, "\n%s\n\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(names[content], "\n"), content)
	}
	return b.String()
}

// bill is the bill of materials. It has neither time nor serial number: those
// would differ each time.
func bill(version string, all []*part) any {
	type object = map[string]any
	root := "pkg:golang/" + own + "@" + version
	components, refs := []object{}, []string{}
	for _, p := range all {
		ids := []object{}
		for _, id := range p.licenses {
			ids = append(ids, object{"license": object{"id": id}})
		}
		c := object{"type": "library", "bom-ref": p.purl, "purl": p.purl, "name": p.name, "version": p.version, "licenses": ids}
		if p.sum != "" {
			// As cyclonedx-gomod has it: of the module's files, not of one file.
			c["hashes"] = []object{{"alg": "SHA-256", "content": p.sum}}
		}
		components = append(components, c)
		refs = append(refs, p.purl)
	}
	return object{
		"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
		"metadata": object{"component": object{
			"type": "application", "bom-ref": root, "purl": root, "name": "otelcol-llamacpp", "version": version,
			"licenses": []object{{"license": object{"id": "Apache-2.0"}}},
		}},
		"components":   components,
		"dependencies": []object{{"ref": root, "dependsOn": refs}},
	}
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output() //nolint:noctx // takes milliseconds
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
