// Copyright The otelcol-llamacpp Authors
// SPDX-License-Identifier: Apache-2.0

package tinygguf

import (
	"fmt"
	"strings"
	"sync"
)

// SentencePiece token kinds as GGUF stores them.
const (
	kindNormal  = 1
	kindUnknown = 2
	kindControl = 3
	kindByte    = 6
)

const (
	space = "\u2581" // SentencePiece's visible space

	bos       = 1
	firstByte = 3
)

// ChatTemplate is the models' Jinja chat template.
const ChatTemplate = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

const words = `the of and to in is you that it he was for on are as with his they at be this have from or one had by
word but not what all were we when your can said there use an each which she do how their if will up other about out
many then them these so some her would make like him into time has look two more write go see number no way could
people my than first water been call who oil its now find long down day did get come made may part over new sound
take only little work know place year live me back give most very after thing our just name good sentence man think
say great where help through much before line right too mean old any same tell boy follow came want show also around
form three small set put end does another well large must big even such because turn here why ask went men read need
land different home us move try kind hand picture again change off play spell air away animal house point page letter
mother answer found study still learn should world`

// Words returns the words that are one token each, and the only ones the
// models ever generate.
func Words() []string { return strings.Fields(words) }

type token struct {
	text  string
	score float32
	kind  int32
	speak bool // likely to be generated
}

func vocabulary() []token {
	v := []token{
		{"<unk>", 0, kindUnknown, false},
		{"<s>", 0, kindControl, false},
		{"</s>", 0, kindControl, false},
	}
	for b := range 256 {
		v = append(v, token{fmt.Sprintf("<0x%02X>", b), 0, kindByte, false})
	}
	v = append(v,
		token{"<|im_start|>", 0, kindControl, false},
		token{"<|im_end|>", 0, kindControl, false},
	)
	seen := map[string]int{}
	add := func(text string, score float32, speak bool) {
		if i, ok := seen[text]; ok {
			v[i].speak = v[i].speak || speak
			return
		}
		seen[text] = len(v)
		v = append(v, token{text, score, kindNormal, speak})
	}
	add(space, -1000, false)
	for c := rune('!'); c <= '~'; c++ {
		add(string(c), -1000, false)
	}
	// SentencePiece joins neighbours pairwise, so every prefix of a word has to
	// be a token for the word to be found; a longer piece scores higher.
	for w := range strings.FieldsSeq(words) {
		p := space
		for i, c := range w {
			p += string(c)
			add(p, float32(-500+10*i), i == len(w)-1)
		}
	}
	return v
}

var ids = sync.OnceValue(func() map[string]int32 {
	m := map[string]int32{}
	for i, t := range vocabulary() {
		m[t.text] = int32(i)
	}
	return m
})

// Tokenize returns the token numbers that llama-server finds for text with
// these models: control tokens are recognised, and every run of text at the
// start or after a control token gets a space in front. With addBOS the
// sequence starts with the beginning-of-text token, as every prompt does.
func Tokenize(text string, addBOS bool) []int32 {
	var out []int32
	if addBOS {
		out = append(out, bos)
	}
	for text != "" {
		i, control := len(text), ""
		for _, c := range []string{"<|im_start|>", "<|im_end|>", "<s>", "</s>"} {
			if j := strings.Index(text, c); j >= 0 && j < i {
				i, control = j, c
			}
		}
		if i > 0 {
			out = appendPieces(out, space+strings.ReplaceAll(text[:i], " ", space))
		}
		if control != "" {
			out = append(out, ids()[control])
		}
		text = text[i+len(control):]
	}
	return out
}

// appendPieces splits text into the longest known pieces from the left. That is
// what the pairwise joining ends with, because every prefix of a piece is one.
func appendPieces(out []int32, text string) []int32 {
	m := ids()
	for text != "" {
		n, id := 0, int32(0)
		for i := range text {
			if i == 0 {
				continue
			}
			next, ok := m[text[:i]]
			if !ok {
				break
			}
			n, id = i, next
		}
		if next, ok := m[text]; ok {
			n, id = len(text), next
		}
		if n == 0 {
			// Not in the vocabulary: one token for each byte of the character.
			r := []rune(text)[0]
			for _, b := range []byte(string(r)) {
				out = append(out, firstByte+int32(b))
			}
			text = text[len(string(r)):]
			continue
		}
		out = append(out, id)
		text = text[n:]
	}
	return out
}
