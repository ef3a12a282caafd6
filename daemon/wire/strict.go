package wire

import (
	"fmt"
	"reflect"
	"strings"
)

// stray finds a key nobody knows in a value that is to become one of type t. In
// what a person writes it is a slip of the pen, and would do nothing. All other
// faults are left to be found by decoding.
func stray(raw []byte, t reflect.Type) *fault {
	switch {
	case t.Kind() == reflect.Slice && raw[0] == '[':
		i := -1
		return each(raw, func(value []byte) *fault {
			i++
			if flt := stray(value, t.Elem()); flt != nil {
				return flt.in(fmt.Sprintf("[%d]", i))
			}
			return nil
		})
	case t.Kind() == reflect.Interface && raw[0] == '{':
		u := unions[t]
		var name string
		if decodeTag(raw, u.tag, &name) != nil || u.types[name] == nil {
			return nil
		}
		return stray(raw, u.types[name])
	case t.Kind() != reflect.Struct || t == addrType || t == prefixType || raw[0] != '{':
		return nil
	}
	s := schemaOf(t)
	return eachMember(raw, func(key, value []byte) *fault {
		name := string(keyText(key))
		i, ok := s.byName[name]
		switch {
		case ok:
			if flt := stray(value, t.FieldByIndex(s.fields[i].index).Type); flt != nil {
				return flt.in(name)
			}
			return nil
		case name == tags[t][0]:
			return nil
		}
		return &fault{msg: "is no field: " + takes(t), field: clip(name)}
	})
}

// takes says what fields an object of type t has: optional ones in brackets.
func takes(t reflect.Type) string {
	var names []string
	for _, f := range schemaOf(t).fields {
		if f.optional || t.FieldByIndex(f.index).Type == scopeType {
			f.name = "[" + f.name + "]"
		}
		names = append(names, f.name)
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	what := tags[t][1]
	if what == "" {
		what = "it"
	}
	return what + " takes " + strings.Join(names, ", ")
}
