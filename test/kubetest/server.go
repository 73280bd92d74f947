// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/llamatelemetry/otelcol-llamacpp/internal/child"
	"github.com/llamatelemetry/otelcol-llamacpp/test/freeport"
)

const (
	// startTimeout is for what takes a quarter of a minute on a machine that is not
	// busy.
	startTimeout = 3 * time.Minute
	stopTimeout  = 20 * time.Second
	adminToken   = "admin"
)

// Cluster is an API server with its database. There are no nodes and no
// controllers: what is created stays as it is.
type Cluster struct {
	folder    string // of the programs
	dir       string // for its files
	url       string
	admin     string           // kubeconfig
	processes []*child.Process // the database's and the API server's
	log       child.Output
}

// Start runs a cluster that keeps its files in dir, and waits until it is ready
// and knows the custom resources. Stop follows.
func Start(ctx context.Context, dir string) (_ *Cluster, err error) {
	folder, err := Find(ctx)
	if err != nil {
		return nil, err
	}
	c := &Cluster{folder: folder, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%w\n%s", err, c.log.String()), c.Stop())
		}
	}()
	var ports [3]int
	for i := range ports {
		if ports[i], err = freeport.Find(0); err != nil {
			return nil, err
		}
	}
	if err := c.writeKeys(); err != nil {
		return nil, err
	}
	database := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	if err := c.run("etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+database, "--advertise-client-urls="+database,
		fmt.Sprintf("--listen-peer-urls=http://127.0.0.1:%d", ports[1]), "--log-level=error", "--unsafe-no-fsync"); err != nil {
		return nil, err
	}
	certificates := filepath.Join(dir, "certificates")
	if err := c.run("kube-apiserver", "--etcd-servers="+database, fmt.Sprintf("--secure-port=%d", ports[2]), "--bind-address=127.0.0.1",
		"--endpoint-reconciler-type=none", "--cert-dir="+certificates, "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+filepath.Join(dir, "sa.pub"), "--service-account-signing-key-file="+filepath.Join(dir, "sa.key"),
		"--token-auth-file="+filepath.Join(dir, "tokens.csv"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
		// It would want each namespace's default service account, which a controller makes.
		"--disable-admission-plugins=ServiceAccount"); err != nil {
		return nil, err
	}
	c.url = fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	if c.admin, err = c.Kubeconfig("admin", adminToken); err != nil {
		return nil, err
	}
	if err := c.await(ctx, "get", "--raw", "/readyz"); err != nil {
		return nil, err
	}
	if out, err := c.Kubectl(ctx, nil, "create", "-f", filepath.Join(folder, "crds")); err != nil {
		return nil, fmt.Errorf("custom resources: %w: %s", err, out)
	}
	if err := c.await(ctx, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"); err != nil {
		return nil, err
	}
	return c, nil
}

// run starts a program.
func (c *Cluster) run(program string, args ...string) error {
	p, err := child.Start(exec.Command(filepath.Join(c.folder, program), args...), &c.log)
	if err != nil {
		return err
	}
	c.processes = append(c.processes, p)
	return nil
}

// await repeats a command of kubectl until it succeeds.
func (c *Cluster) await(ctx context.Context, args ...string) error {
	for end := time.Now().Add(startTimeout); ; time.Sleep(200 * time.Millisecond) {
		out, err := c.Kubectl(ctx, nil, args...)
		if err == nil {
			return nil
		}
		for _, p := range c.processes {
			select {
			case <-p.Exited():
				return fmt.Errorf("the API server or its database has ended: %s", p.State())
			default:
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("the API server is not ready within %s: %w: %s", startTimeout, err, out)
		}
	}
}

// Stop ends the processes.
func (c *Cluster) Stop() error {
	var err error
	if len(c.processes) > 1 {
		err = c.processes[1].Terminate(stopTimeout)
	}
	if len(c.processes) > 0 {
		c.processes[0].Kill() // nobody needs the database any more
	}
	c.processes = nil
	return err
}

// Log is what the processes have logged so far.
func (c *Cluster) Log() string { return c.log.String() }

// Kubectl runs kubectl as an administrator, and returns what it prints.
func (c *Cluster) Kubectl(ctx context.Context, input []byte, args ...string) (string, error) {
	return c.KubectlAs(ctx, c.admin, input, args...)
}

// KubectlAs runs kubectl with a kubeconfig.
func (c *Cluster) KubectlAs(ctx context.Context, kubeconfig string, input []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.folder, "kubectl"), args...)
	cmd.Env = append(append(os.Environ(), c.Environment()...), "KUBECONFIG="+kubeconfig)
	cmd.Stdin = bytes.NewReader(input)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, complaint.String())
	}
	return out.String(), nil
}

// Environment has a program find kubectl, and kubectl reach the API server as an
// administrator.
func (c *Cluster) Environment() []string {
	return []string{
		"PATH=" + c.folder + string(os.PathListSeparator) + os.Getenv("PATH"),
		"KUBECONFIG=" + c.admin, "KUBECACHEDIR=" + filepath.Join(c.dir, "cache"),
	}
}

// Kubeconfig writes the file with which a bearer of the token reaches the API
// server, and returns its path.
func (c *Cluster) Kubeconfig(name, token string) (string, error) {
	file := filepath.Join(c.dir, name+".kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
`, c.url, filepath.Join(c.dir, "certificates", "apiserver.crt"), token)
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// writeKeys makes the key of the service accounts' tokens, and the administrator's
// token.
func (c *Cluster) writeKeys() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": []byte(adminToken + `,admin,1,"system:masters"` + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, file), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Kustomize builds the manifests of a folder. It asks no API server.
func Kustomize(ctx context.Context, folder string) ([]byte, error) {
	programs, err := Find(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "kubectl"), "kustomize", folder)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("kubectl kustomize %s: %w\n%s", folder, err, complaint.String())
	}
	return out.Bytes(), nil
}

// Loopback returns loopback addresses that nothing else uses: the ports that
// manifests name are free there.
func Loopback(n int) []string {
	var network [1]byte
	_, _ = rand.Read(network[:])
	addresses := make([]string, n)
	for i := range addresses {
		addresses[i] = net.IPv4(127, 77, network[0], byte(i+1)).String()
	}
	return addresses
}
