// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package pagetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Looks are those of which pictures are taken, by the picture's name.
var Looks = []struct {
	Name string
	Look
}{
	{"light", Look{Width: 1400, Height: 1000}},
	{"dark", Look{Width: 1400, Height: 1000, Dark: true}},
	{"narrow", Look{Width: 390, Height: 844, Scale: 2, Mobile: true}},
}

// Ready is true once the page shows something: the charts in sight, or that there is
// nothing to show.
const Ready = `(() => {
	const p = globalThis.llamaPage;
	if (!p?.live) return false;
	const notice = document.querySelector("#notice");
	if (!notice.hidden || p.onlyServers) return true;
	const seen = [...document.querySelectorAll(".panel")].filter((e) => {
		const b = e.getBoundingClientRect();
		return b.height > 0 && b.top < innerHeight && b.bottom > 0;
	});
	return document.querySelectorAll(".panel").length > 0 && seen.every((e) => e.querySelector("canvas"));
})()`

// Pictures takes pictures of a page that runs: in each look, what is seen first.
func Pictures(ctx context.Context, url, folder string) (err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	b, err := Launch(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	for _, one := range Looks {
		if err := b.picture(url, one.Look, filepath.Join(folder, one.Name+".png")); err != nil {
			return fmt.Errorf("picture %s of %s: %w", one.Name, url, err)
		}
	}
	return nil
}

func (b *Browser) picture(url string, look Look, file string) error {
	const patience = 30 * time.Second
	tab, err := b.Open(url, look)
	if err != nil {
		return err
	}
	defer tab.Close()
	if err := tab.Await(Ready, patience); err != nil {
		return err
	}
	if p := tab.Problems(); len(p) > 0 {
		return errors.New("the page did what it must not: " + strings.Join(p, "; "))
	}
	png, err := tab.Picture()
	if err != nil {
		return err
	}
	return os.WriteFile(file, png, 0o644)
}
