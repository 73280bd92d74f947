// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

// Package tinygguf writes very small language models in the GGUF v3 format, so
// that tests run a real llama-server without downloading anything.
//
// A model has the "llama" architecture, random but reproducible weights and a
// hand-made SentencePiece-style vocabulary. Its output is a stream of random
// English words: useless as text, but it loads in milliseconds and exercises
// every endpoint.
//
// Only word tokens are ever likely: the weights make the end-of-text token, the
// control tokens and the byte tokens practically impossible to sample, so a
// generation always runs to its max_tokens / n_predict limit.
package tinygguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// Model is the shape of a model. Equal models give equal bytes.
type Model struct {
	// Name is general.name; it does not change the weights.
	Name string
	// Embd is the embedding length, FF the feed-forward length.
	Embd, FF int
	// Layers and Heads are the numbers of blocks and of attention heads.
	// Embd/Heads has to be even.
	Layers, Heads int
	// Ctx is the trained context length in tokens.
	Ctx int
	// Seed is the seed of the weights.
	Seed uint64
}

var (
	// Tiny has 0.19 M parameters in 0.8 MB and generates some 4,500 tokens/s
	// on one core.
	Tiny = Model{Name: "tiny", Embd: 64, Layers: 2, Heads: 4, FF: 128, Ctx: 4096, Seed: 1}

	// Slow has 34 M parameters in 138 MB and generates some 140 tokens/s on one
	// core: slow enough to watch a request under way.
	Slow = Model{Name: "slow", Embd: 512, Layers: 8, Heads: 8, FF: 2048, Ctx: 32768, Seed: 1}
)

// WriteFile writes the model to path. The file appears whole or not at all.
func (m Model) WriteFile(path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return fmt.Errorf("model %s: %w", m.Name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := m.WriteTo(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("model %s: %w", m.Name, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("model %s: %w", m.Name, err)
	}
	return nil
}

// Validate says what is wrong with the shape.
func (m Model) Validate() error {
	for _, p := range []struct {
		name  string
		value int
	}{{"embedding length", m.Embd}, {"number of layers", m.Layers}, {"number of heads", m.Heads}, {"feed-forward length", m.FF}, {"context length", m.Ctx}} {
		if p.value < 1 {
			return fmt.Errorf("model %q: %s %d has to be at least 1", m.Name, p.name, p.value)
		}
	}
	if m.Embd%m.Heads != 0 || m.Embd/m.Heads%2 != 0 {
		return fmt.Errorf("model %q: embedding length %d does not split into %d heads of an even length", m.Name, m.Embd, m.Heads)
	}
	return nil
}

// GGUF metadata value types.
const (
	typeUint32  = 4
	typeInt32   = 5
	typeFloat32 = 6
	typeBool    = 7
	typeString  = 8
	typeArray   = 9
)

const (
	ggmlF32   = 0 // tensor element type
	alignment = 32
)

// WriteTo writes the model's bytes to w and returns their number.
func (m Model) WriteTo(w io.Writer) (int64, error) {
	if err := m.Validate(); err != nil {
		return 0, err
	}
	vocab := vocabulary()
	meta := m.metadata(vocab)
	tensors := m.weights(vocab)

	var info metadata
	var offset uint64
	for _, t := range tensors {
		info.str(t.name)
		info.u32(uint32(len(t.dims)))
		for _, d := range t.dims {
			info.u64(d)
		}
		info.u32(ggmlF32)
		info.u64(offset)
		offset += pad(uint64(4 * len(t.data)))
	}

	var head metadata
	head.buf = append(head.buf, "GGUF"...)
	head.u32(3) // version
	head.u64(uint64(len(tensors)))
	head.u64(meta.n)

	out := &counter{w: bufio.NewWriterSize(w, 1<<20)}
	out.write(head.buf)
	out.write(meta.buf)
	out.write(info.buf)
	out.align()
	var buf []byte
	for _, t := range tensors {
		buf = buf[:0]
		for _, x := range t.data {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(x))
		}
		out.write(buf)
		out.align()
	}
	if err := out.w.Flush(); err != nil {
		return int64(out.n), fmt.Errorf("model %s: %w", m.Name, err)
	}
	return int64(out.n), nil
}

func (m Model) metadata(vocab []token) *metadata {
	var d metadata
	d.addString("general.architecture", "llama")
	d.addString("general.name", m.Name)
	d.addUint("general.file_type", 0) // all F32
	d.addUint("general.alignment", alignment)
	d.addUint("llama.vocab_size", uint32(len(vocab)))
	d.addUint("llama.context_length", uint32(m.Ctx))
	d.addUint("llama.embedding_length", uint32(m.Embd))
	d.addUint("llama.block_count", uint32(m.Layers))
	d.addUint("llama.feed_forward_length", uint32(m.FF))
	d.addUint("llama.attention.head_count", uint32(m.Heads))
	d.addUint("llama.attention.head_count_kv", uint32(m.Heads))
	d.addUint("llama.rope.dimension_count", uint32(m.Embd/m.Heads))
	d.addFloat("llama.attention.layer_norm_rms_epsilon", 1e-5)
	d.addString("tokenizer.ggml.model", "llama")
	d.addString("tokenizer.ggml.pre", "default")
	d.array("tokenizer.ggml.tokens", typeString, len(vocab))
	for _, t := range vocab {
		d.str(t.text)
	}
	d.array("tokenizer.ggml.scores", typeFloat32, len(vocab))
	for _, t := range vocab {
		d.f32(t.score)
	}
	d.array("tokenizer.ggml.token_type", typeInt32, len(vocab))
	for _, t := range vocab {
		d.u32(uint32(t.kind))
	}
	d.addUint("tokenizer.ggml.unknown_token_id", 0)
	d.addUint("tokenizer.ggml.bos_token_id", bos)
	d.addUint("tokenizer.ggml.eos_token_id", 2)
	d.addBool("tokenizer.ggml.add_bos_token", true)
	d.addBool("tokenizer.ggml.add_eos_token", false)
	d.addBool("tokenizer.ggml.add_space_prefix", true)
	d.addString("tokenizer.chat_template", ChatTemplate)
	return &d
}

type metadata struct {
	n   uint64
	buf []byte
}

func (d *metadata) u32(x uint32)  { d.buf = binary.LittleEndian.AppendUint32(d.buf, x) }
func (d *metadata) u64(x uint64)  { d.buf = binary.LittleEndian.AppendUint64(d.buf, x) }
func (d *metadata) f32(x float32) { d.u32(math.Float32bits(x)) }

func (d *metadata) str(s string) {
	d.u64(uint64(len(s)))
	d.buf = append(d.buf, s...)
}

func (d *metadata) key(name string, typ uint32) {
	d.n++
	d.str(name)
	d.u32(typ)
}

func (d *metadata) addString(k, v string)        { d.key(k, typeString); d.str(v) }
func (d *metadata) addUint(k string, v uint32)   { d.key(k, typeUint32); d.u32(v) }
func (d *metadata) addFloat(k string, v float32) { d.key(k, typeFloat32); d.f32(v) }

func (d *metadata) addBool(k string, v bool) {
	d.key(k, typeBool)
	b := byte(0)
	if v {
		b = 1
	}
	d.buf = append(d.buf, b)
}

func (d *metadata) array(k string, typ uint32, n int) {
	d.key(k, typeArray)
	d.u32(typ)
	d.u64(uint64(n))
}

type tensor struct {
	name string
	dims []uint64 // fastest-varying first
	data []float32
}

// weights makes all tensors. Dimension 0 of the hidden state carries the same
// positive constant from the first layer to the last: no block writes to it. The
// output row of a token that must not be sampled has a large negative weight
// there.
func (m Model) weights(vocab []token) []tensor {
	r := rng(m.Seed)
	random := func(n int, scale float32) []float32 {
		d := make([]float32, n)
		for i := range d {
			d[i] = scale * r.next()
		}
		return d
	}
	ones := func(n int) []float32 {
		d := make([]float32, n)
		for i := range d {
			d[i] = 1
		}
		return d
	}
	// muteRow0 keeps a block from writing to dimension 0.
	muteRow0 := func(d []float32, in int) []float32 {
		clear(d[:in])
		return d
	}
	embd, ff := m.Embd, m.FF
	e, f, n := uint64(embd), uint64(ff), uint64(len(vocab))

	tok := random(embd*len(vocab), 1)
	output := random(embd*len(vocab), float32(4/math.Sqrt(float64(embd))))
	for i, t := range vocab {
		tok[i*embd] = 2
		output[i*embd] = 0
		if !t.speak {
			output[i*embd] = -30
		}
	}
	se := float32(1 / math.Sqrt(float64(embd)))
	sf := float32(1 / math.Sqrt(float64(ff)))
	ts := []tensor{{"token_embd.weight", []uint64{e, n}, tok}}
	for l := range m.Layers {
		b := fmt.Sprintf("blk.%d.", l)
		ts = append(ts,
			tensor{b + "attn_norm.weight", []uint64{e}, ones(embd)},
			tensor{b + "attn_q.weight", []uint64{e, e}, random(embd*embd, se)},
			tensor{b + "attn_k.weight", []uint64{e, e}, random(embd*embd, se)},
			tensor{b + "attn_v.weight", []uint64{e, e}, random(embd*embd, se)},
			tensor{b + "attn_output.weight", []uint64{e, e}, muteRow0(random(embd*embd, se), embd)},
			tensor{b + "ffn_norm.weight", []uint64{e}, ones(embd)},
			tensor{b + "ffn_gate.weight", []uint64{e, f}, random(embd*ff, se)},
			tensor{b + "ffn_up.weight", []uint64{e, f}, random(embd*ff, se)},
			tensor{b + "ffn_down.weight", []uint64{f, e}, muteRow0(random(embd*ff, sf), ff)},
		)
	}
	return append(ts,
		tensor{"output_norm.weight", []uint64{e}, ones(embd)},
		tensor{"output.weight", []uint64{e, n}, output},
	)
}

// rng is splitmix64: the same numbers in every language and on every machine.
type rng uint64

func (r *rng) next() float32 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return float32(z>>40)/float32(1<<23) - 1 // [-1, 1)
}

func pad(n uint64) uint64 { return (n + alignment - 1) / alignment * alignment }

type counter struct {
	w *bufio.Writer
	n uint64
}

func (c *counter) write(p []byte) {
	c.n += uint64(len(p))
	c.w.Write(p) // an error stays in the writer until Flush
}

func (c *counter) align() { c.write(make([]byte, pad(c.n)-c.n)) }
