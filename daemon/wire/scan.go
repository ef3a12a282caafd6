package wire

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deeply a body may be nested. The contract's own frames need
// six; the rest is room for keys that are ignored.
const maxDepth = 128

// A syntaxError says where a body stops being JSON (RFC 8259).
type syntaxError struct {
	offset int
	msg    string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s at byte %d", e.msg, e.offset) }

// validate reports whether data is one JSON value and nothing else.
func validate(data []byte) error {
	end, err := skipValue(data, skipSpace(data, 0), 0)
	if err != nil {
		return err
	}
	if end = skipSpace(data, end); end != len(data) {
		return &syntaxError{end, "more after the end of the value"}
	}
	return nil
}

// skipSpace is the index of the first byte from i on that is not white space.
func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// skipValue is the index after the value that begins at i.
func skipValue(data []byte, i, depth int) (int, error) {
	if i >= len(data) {
		return i, &syntaxError{i, "the text ends where a value is wanted"}
	}
	switch c := data[i]; {
	case c == '{':
		return skipMembers(data, i, depth, nil)
	case c == '[':
		return skipElements(data, i, depth, nil)
	case c == '"':
		return skipString(data, i)
	case c == '-' || isDigit(c):
		return skipNumber(data, i)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if end := i + len(word); end <= len(data) && string(data[i:end]) == word {
			return end, nil
		}
	}
	return i, &syntaxError{i, "no value begins with this"}
}

// skipMembers is the index after the object that begins at i. It calls visit, if
// there is one, with each member when it has seen what ends it; the key is in quotes.
func skipMembers(data []byte, i, depth int, visit func(key, value []byte) error) (int, error) {
	if depth >= maxDepth {
		return i, &syntaxError{i, fmt.Sprintf("nested more than %d deep", maxDepth)}
	}
	i = skipSpace(data, i+1)
	if i < len(data) && data[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(data) || data[i] != '"' {
			return i, &syntaxError{i, "a key in quotes is wanted"}
		}
		end, err := skipString(data, i)
		if err != nil {
			return end, err
		}
		key := data[i:end]
		i = skipSpace(data, end)
		if i >= len(data) || data[i] != ':' {
			return i, &syntaxError{i, "a colon is wanted after the key"}
		}
		i = skipSpace(data, i+1)
		if end, err = skipValue(data, i, depth+1); err != nil {
			return end, err
		}
		value := data[i:end]
		i = skipSpace(data, end)
		if i >= len(data) || data[i] != ',' && data[i] != '}' {
			return i, &syntaxError{i, "a comma or a closing brace is wanted"}
		}
		if visit != nil {
			if err := visit(key, value); err != nil {
				return end, err
			}
		}
		if data[i] == '}' {
			return i + 1, nil
		}
		i = skipSpace(data, i+1)
	}
}

// skipElements is the index after the array that begins at i. It calls visit, if
// there is one, with each element when it has seen what ends it.
func skipElements(data []byte, i, depth int, visit func(value []byte) error) (int, error) {
	if depth >= maxDepth {
		return i, &syntaxError{i, fmt.Sprintf("nested more than %d deep", maxDepth)}
	}
	i = skipSpace(data, i+1)
	if i < len(data) && data[i] == ']' {
		return i + 1, nil
	}
	for {
		end, err := skipValue(data, i, depth+1)
		if err != nil {
			return end, err
		}
		value := data[i:end]
		i = skipSpace(data, end)
		if i >= len(data) || data[i] != ',' && data[i] != ']' {
			return i, &syntaxError{i, "a comma or a closing bracket is wanted"}
		}
		if visit != nil {
			if err := visit(value); err != nil {
				return end, err
			}
		}
		if data[i] == ']' {
			return i + 1, nil
		}
		i = skipSpace(data, i+1)
	}
}

// skipString is the index after the string that begins at i. What it passes is
// UTF-8 and has no half of a surrogate pair, so unquote cannot fail on it.
func skipString(data []byte, i int) (int, error) {
	start := i + 1
	for i = start; i < len(data); {
		switch c := data[i]; {
		case c == '"':
			if !utf8.Valid(data[start:i]) {
				return i, &syntaxError{start, "a string that is not UTF-8"}
			}
			return i + 1, nil
		case c < ' ':
			return i, &syntaxError{i, "a control character in a string"}
		case c == '\\':
			n, err := skipEscape(data, i)
			if err != nil {
				return i, err
			}
			i += n
		default:
			i++
		}
	}
	return i, &syntaxError{i, "the text ends inside a string"}
}

// skipEscape is the length of the escape, or pair of them, that begins at i.
func skipEscape(data []byte, i int) (int, error) {
	if i+1 >= len(data) {
		return 0, &syntaxError{i, "the text ends inside a string"}
	}
	switch data[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
		r, ok := hex4(data, i+2)
		if !ok {
			return 0, &syntaxError{i, `\u wants four hexadecimal digits`}
		}
		if !utf16.IsSurrogate(r) {
			return 6, nil
		}
		if i+7 < len(data) && data[i+6] == '\\' && data[i+7] == 'u' {
			if low, ok := hex4(data, i+8); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				return 12, nil
			}
		}
		return 0, &syntaxError{i, "half of a surrogate pair"}
	}
	return 0, &syntaxError{i, "an unknown escape"}
}

// hex4 is the number that four hexadecimal digits from i on make.
func hex4(data []byte, i int) (r rune, ok bool) {
	if i+4 > len(data) {
		return 0, false
	}
	for _, c := range data[i : i+4] {
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// skipNumber is the index after the number that begins at i.
func skipNumber(data []byte, i int) (int, error) {
	digits := func() bool {
		start := i
		for i < len(data) && isDigit(data[i]) {
			i++
		}
		return i > start
	}
	if data[i] == '-' {
		i++
	}
	if i < len(data) && data[i] == '0' {
		i++ // and no digit may follow it
	} else if !digits() {
		return i, &syntaxError{i, "a digit is wanted"}
	}
	if i < len(data) && data[i] == '.' {
		i++
		if !digits() {
			return i, &syntaxError{i, "a digit is wanted after the point"}
		}
	}
	if i < len(data) && (data[i] == 'e' || data[i] == 'E') {
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		if !digits() {
			return i, &syntaxError{i, "a digit is wanted in the exponent"}
		}
	}
	return i, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// unquote is the text of a string that skipString passed. The result is a copy,
// so that it does not keep the body alive.
func unquote(quoted []byte) string { return string(appendUnquoted(nil, quoted)) }

// appendUnquoted appends the text of a string that skipString passed; text
// without escapes is returned as it lies when dst is nil.
func appendUnquoted(dst, quoted []byte) []byte {
	s := quoted[1 : len(quoted)-1]
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			i++
			continue
		}
		dst = append(dst, s[:i]...)
		n := 2
		switch c := s[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, _ := hex4(s, i+2)
			n = 6
			if utf16.IsSurrogate(r) {
				low, _ := hex4(s, i+8)
				r, n = utf16.DecodeRune(r, low), 12
			}
			dst = utf8.AppendRune(dst, r)
		default: // a quote, a backslash or a slash
			dst = append(dst, c)
		}
		s, i = s[i+n:], 0
	}
	if dst == nil {
		return s
	}
	return append(dst, s...)
}
