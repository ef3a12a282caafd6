package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/overlayd/overlayd"

// root is the repository's, from where tests of this package run.
var root = filepath.Join("..", "..")

// systems are those the rules are held for: imports differ between them.
var systems = []string{"linux", "windows", "darwin"}

// A listed package is what go list says of one.
type listed struct {
	system     string // on which it is so
	ImportPath string
	Imports    []string // by its files that are no tests
	Deps       []string // everything it links, directly or not
}

// ours cuts the module off an import path; ok is false for those of others.
func ours(importPath string) (rel string, ok bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// packages lists the module's packages once per operating system.
func packages(t *testing.T) []listed {
	t.Helper()
	all, err := listOnce()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("the go command is not in PATH")
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var listOnce = sync.OnceValues(func() (all []listed, err error) {
	for _, system := range systems {
		cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		out, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			err = fmt.Errorf("go list for %s: %w: %s", system, err, exit.Stderr)
		}
		if err != nil {
			return nil, err
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			p := listed{system: system}
			if err := d.Decode(&p); err == io.EOF {
				break
			} else if err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return all, nil
})

// A file is one Go file of the module, whatever system it is built for.
type file struct {
	path    string // from the root, with slashes
	test    bool
	syntax  *ast.File
	imports []string
	lines   int
	set     *token.FileSet
}

// dir is the file's folder, from the root.
func (f file) dir() string { return path.Dir(f.path) }

// at is where in the repository a piece of syntax is.
func (f file) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.set.Position(n.Pos()).Line)
}

// files parses every Go file of the module, tests included.
func files(t *testing.T) []file {
	t.Helper()
	all, err := parseOnce()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var parseOnce = sync.OnceValues(func() (all []file, err error) {
	set := token.NewFileSet()
	err = walk(".go", func(name string) error {
		syntax, err := parser.ParseFile(set, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		f := file{path: name, test: strings.HasSuffix(name, "_test.go"), syntax: syntax, set: set, lines: set.File(syntax.Pos()).LineCount()}
		for _, i := range syntax.Imports {
			importPath, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, importPath)
		}
		all = append(all, f)
		return nil
	})
	return all, err
})

// walk calls found for each file of the module with a suffix, in order. Folders
// the go command passes over, and modules within this one, are no part of it.
func walk(suffix string, found func(name string) error) error {
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, suffix) {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		return found(filepath.ToSlash(rel))
	})
}
