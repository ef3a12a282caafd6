package archtest

import (
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"testing"
)

// A name is an exported name of a package. It has a declaration for each system
// that differs, of which one is enough to say what it is.
type name struct {
	at         string // the first
	method     string // what it is called, if it is a method of a type
	documented bool
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	names := make(map[string]name)    // by package and name
	promised := make(map[string]bool) // by package, the methods its interfaces tell of
	for _, f := range files(t) {
		if f.test || f.syntax.Name.Name == "main" {
			continue
		}
		for _, d := range f.syntax.Decls {
			declared(d, func(id *ast.Ident, full, method string, documented bool) {
				key := f.dir() + "." + full
				n, known := names[key]
				if !known {
					n = name{at: f.at(id), method: f.dir() + "." + method}
				}
				n.documented = n.documented || documented
				names[key] = n
			})
			interfaceMethods(d, func(id *ast.Ident) { promised[f.dir()+"."+id.Name] = true })
		}
	}
	for _, key := range slices.Sorted(maps.Keys(names)) {
		if n := names[key]; !n.documented && !promised[n.method] {
			t.Errorf("%s: %s is exported and not documented: say what it is, its units, its errors, and who may call it when", n.at, key)
		}
	}
}

// declared calls found for each exported name of a declaration. Its doc is the
// comment above it, above its group, or at the end of its line.
func declared(d ast.Decl, found func(id *ast.Ident, full, method string, documented bool)) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() {
			return
		}
		if d.Recv == nil {
			found(d.Name, d.Name.Name, "", d.Doc != nil)
		} else if recv := receiver(d.Recv); recv.IsExported() {
			found(d.Name, recv.Name+"."+d.Name.Name, d.Name.Name, d.Doc != nil || wellKnown[d.Name.Name])
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					found(s.Name, s.Name.Name, "", d.Doc != nil || s.Doc != nil || s.Comment != nil)
				}
			case *ast.ValueSpec:
				for _, id := range s.Names {
					if id.IsExported() {
						found(id, id.Name, "", d.Doc != nil || s.Doc != nil || s.Comment != nil || isWord(s))
					}
				}
			}
		}
	}
}

// wellKnown are methods of which the interface they are for says everything. The
// same is true of those an interface of their package has.
var wellKnown = map[string]bool{"Error": true, "Unwrap": true, "Is": true, "Timeout": true, "Temporary": true, "String": true}

// isWord reports whether a value is one word of a type that is documented as such,
// as in TCP Proto = "tcp".
func isWord(s *ast.ValueSpec) bool {
	if s.Type == nil || len(s.Values) != 1 {
		return false
	}
	value, ok := s.Values[0].(*ast.BasicLit)
	return ok && value.Kind == token.STRING
}

// interfaceMethods calls found for each documented method of an interface.
func interfaceMethods(d ast.Decl, found func(id *ast.Ident)) {
	ast.Inspect(d, func(n ast.Node) bool {
		i, ok := n.(*ast.InterfaceType)
		if !ok {
			return true
		}
		for _, m := range i.Methods.List {
			for _, id := range m.Names {
				if m.Doc != nil || m.Comment != nil {
					found(id)
				}
			}
		}
		return true
	})
}

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
