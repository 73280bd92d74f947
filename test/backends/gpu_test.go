// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backends

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llamatelemetry/otelcol-llamacpp/test/collectortest"
	"github.com/llamatelemetry/otelcol-llamacpp/test/fakenvml"
	"github.com/llamatelemetry/otelcol-llamacpp/test/otlpsink"
)

// The GPUs of two hosts have the same labels on every way to Prometheus: job and
// instance say which host, hw_id which GPU.
func TestGPUs_OfTwoHostsAreToldApartByTheSameLabels(t *testing.T) {
	program := collectortest.Program(t)
	hosts := []string{"gpu-host-a", "gpu-host-b"}
	var drivers []*fakenvml.Driver
	for range hosts {
		drivers = append(drivers, fakenvml.Start(t, fakenvml.Options{GPUs: 2}))
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			collectors := []ports{freePorts(t), freePorts(t)}
			var scraped []ports
			if !w.pushes {
				scraped = collectors
			}
			prometheus := startPrometheus(t, "1s", scraped...)
			for i, host := range hosts {
				t.Setenv("OTELCOL_BINARY", onHost(t, host, program))
				startCollector(t, w, prometheus, collectors[i], `
receivers: {llamacpp: {scrapers: {gpu: {collection_interval: 500ms}}}}
`, "LD_LIBRARY_PATH="+drivers[i].Folder(), "LLAMACPP_ENDPOINT=http://127.0.0.1:1")
			}
			var want []string
			for _, host := range hosts {
				for gpu := range 2 {
					want = append(want, fmt.Sprintf("nvidia-gpu %s %s", host, drivers[0].UUID(gpu)))
				}
			}
			var got []string
			// hw_power_watts has one series a GPU.
			otlpsink.Eventually(t, 40*time.Second, func() bool {
				got = nil
				for _, s := range prometheus.Query("hw_power_watts") {
					got = append(got, fmt.Sprintf("%s %s %s", s.Metric[model.JobLabel], s.Metric[model.InstanceLabel], s.Metric["hw_id"]))
				}
				return len(got) >= len(want)
			}, "all GPUs")
			slices.Sort(got)
			assert.Equal(t, want, got)
		})
	}
}

// onHost makes a program that runs another one on a host of that name.
func onHost(t *testing.T, name, program string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	script := fmt.Sprintf("#!/bin/sh\nhostname %s && exec %s \"$@\"\n", name, program)
	require.NoError(t, os.WriteFile(file+".sh", []byte(script), 0o700))
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\nexec unshare --uts "+file+".sh \"$@\"\n"), 0o700))
	return file
}
