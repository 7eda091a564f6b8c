package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k := NewKey()
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := LoadKey(path)
	if err != nil || got.Public() != k.Public() {
		t.Fatalf("got %v, %v; want the key that was saved", got.Public(), err)
	}
	if err := NewKey().Save(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second key over the first: got %v", err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o610} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: got %v", mode, err)
		}
	}
	if _, err := LoadKey(filepath.Dir(path)); err == nil {
		t.Error("a directory is a key")
	}
	if _, err := LoadKey(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
}

func TestNoKey(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	for name, text := range map[string]string{
		"empty":                  "",
		"text":                   "secret\n",
		"another kind of block":  block("CERTIFICATE", der),
		"another kind of key":    block(pemType, der),
		"nothing within a block": block(pemType, nil),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadKey(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that names the file", err)
			}
		})
	}
}

// The public key of RFC 8032, section 7.1, test 1; its pin is what this prints for it:
//
//	openssl pkey -pubin -in key -outform DER | openssl dgst -sha256 -binary | base64
const (
	vectorPublic = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	vectorPin    = "SHA256:BuP9j9opu2CrWVV95h7bCuzbIxE0vjDnW0Vfjht5L6k"
)

func TestVector(t *testing.T) {
	p, err := ParsePublic(vectorPublic)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.String(); got != vectorPublic {
		t.Errorf("got %s, want %s", got, vectorPublic)
	}
	if got := p.Pin().String(); got != vectorPin {
		t.Errorf("got %s, want %s", got, vectorPin)
	}
	if pin, err := ParsePin(vectorPin); err != nil || pin != p.Pin() {
		t.Errorf("got %s, %v", pin, err)
	}
}

// A key in a log says whose it is, and no more.
func TestKeyInLog(t *testing.T) {
	k := NewKey()
	secret := base64.StdEncoding.EncodeToString(k.private.Seed())
	for _, text := range []string{k.String(), fmt.Sprintf("%v %+v", struct{ Key Key }{k}, k)} {
		if !strings.Contains(text, k.Public().String()) || strings.Contains(text, secret) || strings.Contains(text, fmt.Sprint(k.private[:4])) {
			t.Errorf("got %s", text)
		}
	}
	if none := (Key{}); !none.IsZero() || none.String() != "none" || k.IsZero() {
		t.Errorf("no key: %v, %s", none.IsZero(), none)
	}
}

func TestParseName(t *testing.T) {
	for name, ok := range map[string]bool{
		"cam1": true, "A.b-c_9": true, strings.Repeat("x", 63): true,
		"": false, strings.Repeat("x", 64): false, "a b": false, "a/b": false, "ä": false, "a\nb": false, " ": false,
	} {
		if _, err := ParseName(name); (err == nil) != ok {
			t.Errorf("%q: got %v, want it taken: %v", name, err, ok)
		}
	}
}

// Of each key there is one encoding: another one is no way around a removal.
// exam: A1
func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", vectorPublic[:43], vectorPublic + "A", " " + vectorPublic, vectorPublic + "\n", vectorPin,
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", // none
		base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 31)),
		base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 33)),
		"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp=", // the same key with other bits behind its end
	} {
		if _, err := ParsePublic(s); err == nil {
			t.Errorf("key %q was taken", s)
		}
	}
	for _, s := range []string{"", vectorPin[7:], vectorPin[:49], vectorPin + "=", "MD5:" + vectorPin[7:], vectorPublic, vectorPin + "\n", Pin{}.String()} {
		if _, err := ParsePin(s); err == nil {
			t.Errorf("fingerprint %q was taken", s)
		}
	}
}

// Root takes no key that somebody has put into a directory of others.
func TestKeyOfSomebody(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	k := NewKey()
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	const somebody = 61002
	if err := os.Chown(path, somebody, somebody); err != nil {
		t.Skipf("there is nobody else here: %v", err)
	}
	if _, err := LoadKey(path); err == nil || !strings.Contains(err.Error(), "chown it to root") {
		t.Errorf("in a directory of root: got %v", err)
	}
	if err := os.Chown(dir, somebody, somebody); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadKey(path); err != nil || got.Public() != k.Public() {
		t.Errorf("in a directory of his: got %v", err)
	}
}
