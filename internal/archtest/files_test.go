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

// An exported is an exported name of a package, which has a declaration for each
// system that differs.
type exported struct {
	at         string // the first
	documented bool   // at one of them
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	names := make(map[string]exported)
	for _, f := range files(t) {
		if f.test || f.syntax.Name.Name == "main" {
			continue
		}
		for _, d := range f.syntax.Decls {
			declared(d, func(id *ast.Ident, full string, docs ...*ast.CommentGroup) {
				key := f.dir() + "." + full
				e, known := names[key]
				if !known {
					e.at = f.at(id)
				}
				for _, doc := range docs {
					e.documented = e.documented || doc != nil
				}
				names[key] = e
			})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !names[name].documented {
			t.Errorf("%s: %s is exported and not documented: say what it is, its units, its errors, and who may call it when", names[name].at, name)
		}
	}
}

// declared calls found for each exported name of a declaration, with what may be
// its doc: the comment above it, above its group, or at the end of its line.
func declared(d ast.Decl, found func(id *ast.Ident, full string, docs ...*ast.CommentGroup)) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() {
			return
		}
		if d.Recv == nil {
			found(d.Name, d.Name.Name, d.Doc)
		} else if recv := receiver(d.Recv); recv.IsExported() && !wellKnown[d.Name.Name] {
			found(d.Name, recv.Name+"."+d.Name.Name, d.Doc)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					found(s.Name, s.Name.Name, d.Doc, s.Doc, s.Comment)
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() {
						found(name, name.Name, d.Doc, s.Doc, s.Comment)
					}
				}
			}
		}
	}
}

// wellKnown are methods of which the interface they are for says everything.
var wellKnown = map[string]bool{"Error": true, "Unwrap": true, "Is": true, "Timeout": true, "Temporary": true, "String": true}

// receiver is the name of the type a method is of.
func receiver(recv *ast.FieldList) *ast.Ident {
	typ := recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.ParenExpr:
			typ = x.X
		default:
			return typ.(*ast.Ident)
		}
	}
}
