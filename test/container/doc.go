// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package container builds the image of docker/Dockerfile and runs it, and runs
// the services of docker/compose.yaml on the files that it mounts.
package container
