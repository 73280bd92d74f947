// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command check-platforms checks the types of the whole distribution and of
// llamaload, as they are built without cgo for other systems. That takes seconds,
// where compiling takes minutes for each, and finds what the compiler would:
// functions and fields that a system lacks. Run it in the repository's root after
// make build, for these or other platforms:
//
//	go run ./test/cmd/check-platforms darwin/arm64 windows/amd64
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// module is the prefix of our own packages, whose functions are checked too, not
// only what others see of them.
const module = "github.com/llamatelemetry/otelcol-llamacpp"

// programs are the folders of the modules and the packages in them.
var programs = [][2]string{{"_build", "."}, {".", "./cmd/llamaload"}}

func main() {
	begin := time.Now()
	failed := make([]error, len(os.Args)-1)
	// Each platform keeps one processor busy.
	turn := make(chan struct{}, 2)
	var wait sync.WaitGroup
	for i, platform := range os.Args[1:] {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			goos, goarch, _ := strings.Cut(platform, "/")
			for _, p := range programs {
				n, err := check(p[0], p[1], goos, goarch)
				if err != nil {
					failed[i] = errors.Join(failed[i], fmt.Errorf("%s for %s: %w", filepath.Join(p[0], p[1]), platform, err))
					continue
				}
				fmt.Printf("%s: %d packages of %s, %s\n", platform, n, filepath.Join(p[0], p[1]), time.Since(begin).Round(100*time.Millisecond))
			}
		})
	}
	wait.Wait()
	if err := errors.Join(failed...); err != nil {
		fmt.Fprintln(os.Stderr, "check-platforms:", err)
		os.Exit(1)
	}
}

// source is a package as go list describes it.
type source struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string
	Module          *struct{ GoVersion string }
	Error           *struct{ Err string }
}

// check checks a package and all that it imports, and returns how many these are.
func check(folder, pattern, goos, goarch string) (int, error) {
	list := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Dir,GoFiles,ImportMap,Module,Error", pattern)
	list.Dir = folder
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
	list.Stderr = os.Stderr
	output, err := list.Output()
	if err != nil {
		return 0, fmt.Errorf("go list: %w: make build", err)
	}
	known := map[string]*types.Package{"unsafe": types.Unsafe}
	var failed []error
	// Each package comes after those that it imports.
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var s source
		if err := decoder.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return 0, err
		}
		if s.ImportPath == "unsafe" {
			continue
		}
		if s.Error != nil {
			failed = append(failed, errors.New(s.Error.Err))
			continue
		}
		p, errs := s.check(known, goarch)
		known[s.ImportPath] = p
		failed = append(failed, errs...)
	}
	return len(known), errors.Join(failed...)
}

func (s *source) check(known map[string]*types.Package, goarch string) (p *types.Package, failed []error) {
	own := strings.HasPrefix(s.ImportPath, module)
	set := token.NewFileSet()
	files := make([]*ast.File, len(s.GoFiles))
	errs := make([]error, len(s.GoFiles))
	var wait sync.WaitGroup
	for i, name := range s.GoFiles {
		wait.Go(func() {
			files[i], errs[i] = parser.ParseFile(set, filepath.Join(s.Dir, name), nil, parser.SkipObjectResolution)
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, []error{err}
	}
	config := types.Config{
		Importer: importer(func(path string) (*types.Package, error) {
			if mapped, ok := s.ImportMap[path]; ok {
				path = mapped
			}
			if p := known[path]; p != nil {
				return p, nil
			}
			return nil, fmt.Errorf("%s: not there", path)
		}),
		IgnoreFuncBodies: !own,
		// What only the functions of others import would count as unused.
		DisableUnusedImportCheck: !own,
		Sizes:                    types.SizesFor("gc", goarch),
		Error:                    func(err error) { failed = append(failed, err) },
	}
	if s.Module != nil && s.Module.GoVersion != "" {
		config.GoVersion = "go" + s.Module.GoVersion
	}
	p, _ = config.Check(s.ImportPath, set, files, nil) // Error has had the errors
	return p, failed
}

type importer func(path string) (*types.Package, error)

func (i importer) Import(path string) (*types.Package, error) { return i(path) }
