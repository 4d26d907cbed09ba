package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

const (
	tokenChars    = 43
	tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// makeTokens writes n tokens that open no session.
func makeTokens(file string, n int) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("making tokens: %w", err)
	}
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = madeUpToken()
	}
	return writeTokens(file, tokens)
}

func madeUpToken() string {
	token := make([]byte, tokenChars)
	for i := range token {
		token[i] = tokenAlphabet[rand.IntN(len(tokenAlphabet))]
	}
	return string(token)
}

// writeTokens leaves the whole file or none.
func writeTokens(file string, tokens []string) error {
	temporary := file + ".new"
	err := os.WriteFile(temporary, []byte(strings.Join(tokens, "\n")+"\n"), 0o600)
	if err == nil {
		err = os.Rename(temporary, file)
	}
	if err != nil {
		return fmt.Errorf("writing tokens: %w", err)
	}
	return nil
}

func readTokens(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading tokens: %w", err)
	}
	defer f.Close()
	var tokens []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		tokens = append(tokens, lines.Text())
	}
	return tokens, lines.Err()
}

// A tokenFile draws tokens from a file without having it in memory, which is
// to be measured.
type tokenFile struct {
	file  *os.File // nil: made-up tokens
	count int64
}

// openTokens opens a file of writeTokens; without a name it makes tokens up.
func openTokens(name string) (*tokenFile, error) {
	if name == "" {
		return new(tokenFile), nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening tokens: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening tokens: %w", err)
	}
	return &tokenFile{file: file, count: info.Size() / (tokenChars + 1)}, nil
}

func (t *tokenFile) any() (string, error) {
	if t.file == nil {
		return madeUpToken(), nil
	}
	var token [tokenChars]byte
	if _, err := t.file.ReadAt(token[:], rand.Int64N(t.count)*(tokenChars+1)); err != nil {
		return "", fmt.Errorf("reading tokens: %w", err)
	}
	return string(token[:]), nil
}

func (t *tokenFile) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}
