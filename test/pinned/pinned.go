// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package pinned builds programs that tests run, in the versions that modules
// below tools/ pin.
package pinned

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Programs are programs of one module.
type Programs struct {
	// Name is what people call them.
	Name string
	// Folder has the module that pins the version, below tools/. The programs get
	// a folder of that name and version below the user's cache folder.
	Folder string
	// Module is the path of the module that has the programs, and Packages are their
	// packages below it. Each program has the name of its package.
	Module   string
	Packages []string
	// Tags are build tags, separated by commas.
	Tags string
	// Lacking are files that the module as published lacks and the programs embed, by
	// their paths in the module.
	Lacking map[string]string
	// Cure is what to do where they are missing.
	Cure string
}

// Find returns the folder that Install has put the programs into.
func (p *Programs) Find(ctx context.Context) (string, error) {
	_, folder, err := p.places(ctx)
	if err != nil {
		return "", err
	}
	for _, program := range p.Packages {
		if _, err := os.Stat(filepath.Join(folder, path.Base(program))); err != nil {
			return "", fmt.Errorf("find %s: %w: %s", p.Name, err, p.Cure)
		}
	}
	return folder, nil
}

// Install builds the programs, and does nothing where that has been done
// before. The first build takes some minutes.
func (p *Programs) Install(ctx context.Context, log io.Writer) (err error) {
	module, folder, err := p.places(ctx)
	if err != nil {
		return err
	}
	if _, err := p.Find(ctx); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		return fmt.Errorf("install %s: %w", p.Name, err)
	}
	// The folder gets its name only when it is complete.
	part, err := os.MkdirTemp(filepath.Dir(folder), filepath.Base(folder)+".part-")
	if err != nil {
		return fmt.Errorf("install %s: %w", p.Name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	args := []string{"build", "-tags", p.Tags, "-ldflags", "-s -w", "-o", part + string(filepath.Separator)}
	for _, program := range p.Packages {
		args = append(args, p.Module+"/"+program)
	}
	if len(p.Lacking) > 0 {
		modfile, err := p.complete(ctx, module, filepath.Join(part, "source"), log)
		if err != nil {
			return fmt.Errorf("install %s: %w", p.Name, err)
		}
		args = slices.Insert(args, 1, "-modfile", modfile)
	}
	if _, err := run(ctx, log, module, args...); err != nil {
		return fmt.Errorf("install %s: %w", p.Name, err)
	}
	if err := os.RemoveAll(filepath.Join(part, "source")); err != nil {
		return fmt.Errorf("install %s: %w", p.Name, err)
	}
	if err := os.Rename(part, folder); err != nil {
		if _, found := p.Find(ctx); found == nil {
			return nil // somebody else was faster
		}
		return fmt.Errorf("install %s: %w", p.Name, err)
	}
	return nil
}

// complete copies the published module to a folder, adds what it lacks, and
// returns a go.mod like that in module which takes the copy instead.
func (p *Programs) complete(ctx context.Context, module, folder string, log io.Writer) (modfile string, err error) {
	if _, err := run(ctx, log, module, "mod", "download", p.Module); err != nil {
		return "", err
	}
	published, err := run(ctx, log, module, "list", "-m", "-f", "{{.Dir}}", p.Module)
	if err != nil {
		return "", err
	}
	source := filepath.Join(folder, "module")
	if err := os.CopyFS(source, os.DirFS(published)); err != nil {
		return "", err
	}
	for name, text := range p.Lacking {
		file := filepath.Join(source, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(folder, name), b, 0o600); err != nil {
			return "", err
		}
	}
	modfile = filepath.Join(folder, "go.mod")
	_, err = run(ctx, log, module, "mod", "edit", "-replace", p.Module+"="+source, modfile)
	return modfile, err
}

// run runs a go command in a folder, and returns its output without the space
// around it.
func run(ctx context.Context, log io.Writer, folder string, args ...string) (string, error) {
	var output strings.Builder
	command := exec.CommandContext(ctx, "go", args...)
	command.Dir, command.Stdout, command.Stderr = folder, &output, log
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w", args[0], folder, err)
	}
	return strings.TrimSpace(output.String()), nil
}

// places returns the folder of the module that pins the version, and the one
// for the programs of that version.
func (p *Programs) places(ctx context.Context) (module, folder string, err error) {
	_, self, _, _ := runtime.Caller(0)
	module = filepath.Join(filepath.Dir(self), "..", "..", "tools", p.Folder)
	version, err := run(ctx, io.Discard, module, "list", "-m", "-f", "{{.Version}}", p.Module)
	if err != nil {
		return "", "", fmt.Errorf("version of %s: %w", p.Name, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", fmt.Errorf("cache folder of %s: %w: set HOME or XDG_CACHE_HOME", p.Name, err)
	}
	return module, filepath.Join(cache, "otelcol-llamacpp", p.Folder+"-"+version), nil
}
