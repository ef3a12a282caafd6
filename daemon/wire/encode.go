package wire

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"unicode/utf8"
)

// Marshal is the contract's JSON of a value of this package: a Frame, Request,
// Response, Event, Handle or PeerScope with its tag, or one of the structs in
// them. Text that is not UTF-8 gets U+FFFD where it is not. The error is an
// *EncodeError.
func Marshal(v any) ([]byte, error) { return appendAny(nil, v) }

func appendAny(dst []byte, v any) ([]byte, error) {
	var flt *fault
	switch v := v.(type) {
	case nil:
		flt = faultf("nothing to encode")
	case EventFrame:
		dst = append(dst, `{"frame":"event",`...)
		if dst, flt = appendVariant(dst, reflect.ValueOf(&v.Event).Elem()); flt != nil {
			flt = flt.in("event")
		}
	case Frame:
		dst = append(dst, `{"frame":`...)
		dst = append(appendString(dst, v.frame()), ',')
		dst, flt = appendFields(dst, reflect.ValueOf(v))
	default:
		dst, flt = appendValue(dst, reflect.ValueOf(v))
	}
	if flt != nil {
		return nil, &EncodeError{Field: flt.field, Msg: flt.msg}
	}
	return dst, nil
}

func appendValue(dst []byte, v reflect.Value) ([]byte, *fault) {
	switch t := v.Type(); {
	case t == addrType:
		return appendAddr(dst, v.Interface().(netip.Addr))
	case t == prefixType:
		return appendPrefix(dst, v.Interface().(netip.Prefix))
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool()), nil
	case reflect.String:
		if flt := checkWord(v.Type(), v.String()); flt != nil {
			return dst, flt
		}
		return appendString(dst, v.String()), nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(dst, v.Uint(), 10), nil
	case reflect.Int64:
		return strconv.AppendInt(dst, v.Int(), 10), nil
	case reflect.Slice:
		return appendList(dst, v)
	case reflect.Struct:
		return appendMembers(append(dst, '{'), v)
	case reflect.Interface:
		return appendVariant(append(dst, '{'), v)
	}
	return dst, faultf("%s is no type of the contract", v.Type())
}

// appendVariant appends what comes after the brace that opens the object of a
// union, which v is the interface of.
func appendVariant(dst []byte, v reflect.Value) ([]byte, *fault) {
	u, inside := unions[v.Type()], v.Elem()
	switch {
	case !inside.IsValid() && v.Type() == scopeType:
		inside = reflect.ValueOf(GlobalScope{})
	case !inside.IsValid():
		return dst, faultf("is not set")
	}
	if tag, ok := tags[inside.Type()]; u == nil || !ok || tag[0] != u.tag {
		return dst, faultf("%s is no type of the contract", inside.Type())
	}
	return appendMembers(dst, inside)
}

// appendMembers appends what comes after the brace that opens an object, the tag
// of its type included.
func appendMembers(dst []byte, v reflect.Value) ([]byte, *fault) {
	if tag, ok := tags[v.Type()]; ok {
		dst = append(appendString(dst, tag[0]), ':')
		dst = append(appendString(dst, tag[1]), ',')
	}
	return appendFields(dst, v)
}

// appendFields appends a struct's fields, without a tag, and the closing brace in
// place of the last comma.
func appendFields(dst []byte, v reflect.Value) ([]byte, *fault) {
	for _, f := range schemaOf(v.Type()).fields {
		value := v.FieldByIndex(f.index)
		if f.optional && (value.IsZero() || value.Kind() == reflect.Slice && value.Len() == 0) {
			continue
		}
		dst = append(appendString(dst, f.name), ':')
		var flt *fault
		if dst, flt = appendValue(dst, value); flt != nil {
			return dst, flt.in(f.name)
		}
		dst = append(dst, ',')
	}
	if last := len(dst) - 1; dst[last] == ',' {
		dst = dst[:last]
	}
	return append(dst, '}'), nil
}

func appendList(dst []byte, v reflect.Value) ([]byte, *fault) {
	if v.Len() > MaxList {
		return dst, faultf("%d items, and %d are allowed", v.Len(), MaxList)
	}
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		var flt *fault
		if dst, flt = appendValue(dst, v.Index(i)); flt != nil {
			return dst, flt.in(fmt.Sprintf("[%d]", i))
		}
	}
	return append(dst, ']'), nil
}

func appendAddr(dst []byte, a netip.Addr) ([]byte, *fault) {
	switch {
	case !a.IsValid():
		return dst, faultf("is not set")
	case a.Zone() != "":
		return dst, faultf("%s has a zone, which means nothing to the other side", clip(a.String()))
	}
	return append(a.AppendTo(append(dst, '"')), '"'), nil
}

func appendPrefix(dst []byte, p netip.Prefix) ([]byte, *fault) {
	if !p.IsValid() {
		return dst, faultf("is not set")
	}
	return append(p.AppendTo(append(dst, '"')), '"'), nil
}

// appendString appends text in quotes, with no more escapes than RFC 8259 section
// 7 asks for, in their short form where there is one.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[start:i]...), "\uFFFD"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
