package archtest

import (
	"go/ast"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestPortableCodeNeverAsksForTheSystem(t *testing.T) {
	for _, f := range files(t) {
		if f.test || osFile.MatchString(f.path) || !slices.Contains(f.imports, "runtime") {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "GOOS" {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "runtime" {
					t.Errorf("%s reads runtime.GOOS: what differs between systems goes to a file per system, with equal signatures", f.at(n))
				}
			}
			return true
		})
	}
}

// maxLines is where a file of code is too long to be held in mind.
const maxLines = 600

func TestFilesAreShort(t *testing.T) {
	for _, f := range files(t) {
		if !f.test && f.lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: it is about more than one thing, which get a file each", f.path, f.lines, maxLines)
		}
	}
}

func TestNothingIsLeftForLater(t *testing.T) {
	for _, f := range files(t) {
		for _, group := range f.syntax.Comments {
			for _, word := range []string{"TODO", "FIXME", "XXX", "HACK"} {
				if strings.Contains(group.Text(), word) {
					t.Errorf("%s: a comment has %s: do it, or say what is and why", f.at(group), word)
				}
			}
		}
	}
}

func TestPackagesAreNamedAfterWhatTheyDo(t *testing.T) {
	for _, f := range files(t) {
		for _, part := range append(strings.Split(f.dir(), "/"), strings.TrimSuffix(f.syntax.Name.Name, "_test")) {
			switch part {
			case "util", "utils", "common", "types", "pkg", "misc", "helper", "helpers", "shared", "base":
				t.Errorf("%s is in a package %q, a name that says nothing: name it after what it does", f.path, part)
			}
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	docs := make(map[string][]string) // by folder, the files that have one
	for _, f := range files(t) {
		if f.test {
			continue
		}
		docs[f.dir()] = docs[f.dir()]
		if f.syntax.Doc == nil {
			continue
		}
		docs[f.dir()] = append(docs[f.dir()], f.path)
		name := f.syntax.Name.Name
		begin := []string{"Package " + name + " "}
		if name == "main" {
			name = path.Base(f.dir())
			begin = []string{"Command " + name + " ", strings.ToUpper(name[:1]) + name[1:] + " "}
		}
		text := f.syntax.Doc.Text()
		if !slices.ContainsFunc(begin, func(b string) bool { return strings.HasPrefix(text, b) }) {
			t.Errorf("%s: the package doc begins %.40q, not %q", f.path, text, begin)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(docs)) {
		switch in := docs[dir]; {
		case len(in) == 0:
			t.Errorf("package %s has no doc: say in doc.go what it is for, in the form go doc prints", dir)
		case len(in) > 1:
			t.Errorf("package %s has a doc in each of %s: go doc joins them in this order, so keep one", dir, strings.Join(in, ", "))
		}
	}
}
