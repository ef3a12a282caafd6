package wire

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
)

// MaxList is how many items a list may have, so that a body's size bounds the
// memory its value takes.
const MaxList = 1 << 16

// ParseRequest is the request of an op from its fields, a JSON object as in a
// frame but without the op; fields may be empty if the op needs none. Other than in
// a frame, a key nobody knows is an error. The error is a *DecodeError, and says
// which fields there are.
func ParseRequest(op string, fields []byte) (Request, error) {
	if len(trim(fields)) == 0 {
		fields = []byte("{}")
	}
	if err := validate(fields); err != nil {
		return nil, &DecodeError{Code: InvalidJSON, Name: op, Msg: err.Error()}
	}
	fields = trim(fields)
	if t, ok := requests.types[op]; ok {
		if flt := stray(fields, t); flt != nil {
			flt.name = op
			return nil, frameError("request", nil, flt)
		}
	}
	var r Request
	if flt := decodeVariant(fields, requests, op, reflect.ValueOf(&r).Elem()); flt != nil {
		if flt.missing != nil {
			flt.msg += ": " + takes(flt.missing)
		}
		return nil, frameError("request", nil, flt)
	}
	return r, nil
}

// All that follows is given values that validate has passed, without white space
// around them.

func decodeValue(raw []byte, v reflect.Value) *fault {
	switch v.Type() {
	case addrType:
		return decodeAddr(raw, v)
	case prefixType:
		return decodePrefix(raw, v)
	}
	switch v.Kind() {
	case reflect.Bool:
		if raw[0] != 't' && raw[0] != 'f' {
			return wanted("true or false", raw)
		}
		v.SetBool(raw[0] == 't')
	case reflect.String:
		return decodeString(raw, v)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return decodeUint(raw, v)
	case reflect.Int64:
		return decodeInt(raw, v)
	case reflect.Slice:
		return decodeList(raw, v)
	case reflect.Struct:
		return decodeStruct(raw, v)
	case reflect.Interface:
		return decodeUnion(raw, unions[v.Type()], v)
	default:
		panic("wire: no way to decode " + v.Type().String())
	}
	return nil
}

func decodeString(raw []byte, v reflect.Value) *fault {
	if raw[0] != '"' {
		return wanted("a string", raw)
	}
	s := unquote(raw)
	if flt := checkWord(v.Type(), s); flt != nil {
		return flt
	}
	v.SetString(s)
	return nil
}

func decodeAddr(raw []byte, v reflect.Value) *fault {
	if raw[0] != '"' {
		return wanted("an IP address", raw)
	}
	s := unquote(raw)
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return faultf("%s is not an IP address, or has a zone", clip(s))
	}
	v.Set(reflect.ValueOf(a))
	return nil
}

func decodePrefix(raw []byte, v reflect.Value) *fault {
	if raw[0] != '"' {
		return wanted("a prefix", raw)
	}
	s := unquote(raw)
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return faultf("%s is not a prefix such as 10.0.0.0/24", clip(s))
	}
	v.Set(reflect.ValueOf(p))
	return nil
}

func decodeUint(raw []byte, v reflect.Value) *fault {
	n, err := strconv.ParseUint(string(raw), 10, v.Type().Bits())
	if err != nil {
		return wrongInteger(raw, fmt.Sprintf("0 to %d", ^uint64(0)>>(64-v.Type().Bits())))
	}
	v.SetUint(n)
	return nil
}

func decodeInt(raw []byte, v reflect.Value) *fault {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || string(raw) == "-0" { // which is a floating point number to other decoders
		return wrongInteger(raw, "-2^63 to 2^63-1")
	}
	v.SetInt(n)
	return nil
}

func wrongInteger(raw []byte, span string) *fault {
	if raw[0] != '-' && !isDigit(raw[0]) {
		return wanted("an integer", raw)
	}
	return faultf("%s is not an integer from %s", clip(string(raw)), span)
}

func decodeList(raw []byte, v reflect.Value) *fault {
	if raw[0] != '[' {
		return wanted("a list", raw)
	}
	list := reflect.New(v.Type()).Elem()
	flt := each(raw, func(value []byte) *fault {
		n := list.Len()
		if n == MaxList {
			return faultf("more than %d items", MaxList)
		}
		if n == list.Cap() {
			list.Grow(max(n, 4))
		}
		list.SetLen(n + 1)
		if flt := decodeValue(value, list.Index(n)); flt != nil {
			return flt.in(fmt.Sprintf("[%d]", n))
		}
		return nil
	})
	v.Set(list)
	return flt
}

// decodeStruct decodes the fields of an object; its tag, if it has one, is just
// another key nobody knows.
func decodeStruct(raw []byte, v reflect.Value) *fault {
	if raw[0] != '{' {
		return wanted("an object", raw)
	}
	s := schemaOf(v.Type())
	var seen uint64 // a bit for each field
	flt := eachMember(raw, func(key, value []byte) *fault {
		i, ok := s.byName[string(keyText(key))]
		if !ok {
			return nil
		}
		f := s.fields[i]
		if seen&(1<<i) != 0 {
			return faultf("is there twice").in(f.name)
		}
		seen |= 1 << i
		if f.optional && value[0] == 'n' {
			return nil
		}
		if flt := decodeValue(value, v.FieldByIndex(f.index)); flt != nil {
			return flt.in(f.name)
		}
		return nil
	})
	if flt != nil {
		return flt
	}
	for i, f := range s.fields {
		if f.optional || seen&(1<<i) != 0 {
			continue
		}
		field := v.FieldByIndex(f.index)
		if field.Type() != scopeType {
			return (&fault{msg: "is missing", missing: v.Type()}).in(f.name)
		}
		field.Set(reflect.ValueOf(GlobalScope{}))
	}
	return nil
}

// decodeUnion decodes an object whose tag says what it is.
func decodeUnion(raw []byte, u *union, v reflect.Value) *fault {
	var name string
	if flt := decodeTag(raw, u.tag, &name); flt != nil {
		return flt
	}
	return decodeVariant(raw, u, name, v)
}

// decodeVariant decodes an object that is what name says.
func decodeVariant(raw []byte, u *union, name string, v reflect.Value) *fault {
	t, ok := u.types[name]
	switch {
	case !ok && u.unknown != "":
		return &fault{code: u.unknown, msg: clip(name)}
	case !ok:
		return faultf("%s is not known", clip(name)).in(u.tag)
	}
	variant := reflect.New(t).Elem()
	flt := decodeStruct(raw, variant)
	if flt != nil {
		flt.name = name // of the outermost union, as it is the last to set it
		return flt
	}
	v.Set(variant)
	return nil
}

// decodeTag finds the tag of an object.
func decodeTag(raw []byte, tag string, name *string) *fault {
	if raw[0] != '{' {
		return wanted("an object", raw)
	}
	found := false
	flt := eachMember(raw, func(key, value []byte) *fault {
		switch {
		case !keyIs(key, tag):
			return nil
		case found:
			return faultf("is there twice").in(tag)
		case value[0] != '"':
			return wanted("a string", value).in(tag)
		}
		found, *name = true, unquote(value)
		return nil
	})
	if flt == nil && !found {
		flt = faultf("is missing").in(tag)
	}
	return flt
}

// wanted is the fault of a value of another type.
func wanted(what string, raw []byte) *fault {
	got := map[byte]string{'{': "an object", '[': "a list", '"': "a string", 't': "true", 'f': "false", 'n': "null"}[raw[0]]
	if got == "" {
		got = "a number"
	}
	return faultf("%s is wanted, not %s", what, got)
}

// errStop ends a walk over an object or list; the fault lies elsewhere.
var errStop = fmt.Errorf("stop")

// eachMember calls f with the members of an object until it finds a fault.
func eachMember(raw []byte, f func(key, value []byte) *fault) (flt *fault) {
	skipMembers(raw, 0, 0, func(key, value []byte) error { //nolint:errcheck // validate has passed it
		if flt = f(key, value); flt != nil {
			return errStop
		}
		return nil
	})
	return flt
}

// each calls f with the elements of a list until it finds a fault.
func each(raw []byte, f func(value []byte) *fault) (flt *fault) {
	skipElements(raw, 0, 0, func(value []byte) error { //nolint:errcheck // validate has passed it
		if flt = f(value); flt != nil {
			return errStop
		}
		return nil
	})
	return flt
}

// keyText is the text of a key in quotes.
func keyText(quoted []byte) []byte { return appendUnquoted(nil, quoted) }

func keyIs(quoted []byte, name string) bool { return string(keyText(quoted)) == name }

// trim takes the white space around a value off.
func trim(data []byte) []byte { return bytes.Trim(data, " \t\r\n") }
