// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Command healthcheck asks the collector's health_check extension whether it is
// healthy, and fails where it is not. It is for the image, which has no curl.
//
// HEALTH_CHECK_HOST and HEALTH_CHECK_PORT are the variables that the collector's
// own configuration takes.
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// timeout is less than that of the image's HEALTHCHECK, so that the reason is seen.
const timeout = 2 * time.Second

func main() {
	address := address(os.Getenv("HEALTH_CHECK_HOST"), os.Getenv("HEALTH_CHECK_PORT"))
	status, err := check(address, timeout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "healthcheck:", err)
		os.Exit(1)
	}
	fmt.Println(status)
}

// address is where to ask for what listens on a host and a port: on this machine
// where it listens on all addresses.
func address(host, port string) string {
	host = cmp.Or(host, "localhost")
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, cmp.Or(port, "13133"))
}

// check asks for the path /, and returns the status line of a healthy collector.
// It does without net/http, which would make this program three times as large.
func check(address string, timeout time.Duration) (string, error) {
	end := time.Now().Add(timeout)
	dialer := net.Dialer{Deadline: end}
	connection, err := dialer.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = connection.Close() }()
	if err := connection.SetDeadline(end); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(connection, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", address); err != nil {
		return "", err
	}
	status, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("answer of %s: %w", address, err)
	}
	status = strings.TrimSpace(status)
	if version, rest, _ := strings.Cut(status, " "); !strings.HasPrefix(version, "HTTP/1.") || !strings.HasPrefix(rest, "200") {
		return "", fmt.Errorf("%s answers %s", address, status)
	}
	return status, nil
}
