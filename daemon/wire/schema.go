package wire

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// A union is what a field, or a frame, may hold several types of. The JSON object
// says which under the key tag.
type union struct {
	tag     string
	unknown Code // of a name that is not known; "": that of the frame
	types   map[string]reflect.Type
}

// newUnion makes a union of the types of members, whose names are what name says.
func newUnion[T any](tag string, unknown Code, name func(T) string, members ...T) *union {
	u := &union{tag, unknown, make(map[string]reflect.Type)}
	for _, m := range members {
		u.types[name(m)] = reflect.TypeOf(m)
	}
	return u
}

// unions are the unions by the interface that stands for each.
var unions = map[reflect.Type]*union{
	reflect.TypeFor[Request]():   requests,
	reflect.TypeFor[Response]():  responses,
	reflect.TypeFor[Event]():     events,
	reflect.TypeFor[Handle]():    handles,
	reflect.TypeFor[PeerScope](): scopes,
}

// tags are the key and value that say what an object is, by its type.
var tags = func() map[reflect.Type][2]string {
	all := make(map[reflect.Type][2]string)
	for _, u := range unions {
		for name, t := range u.types {
			all[t] = [2]string{u.tag, name}
		}
	}
	return all
}()

// checkWord finds fault with a value of a string type that has a fixed set of
// them, which its method words lists.
func checkWord(t reflect.Type, s string) *fault {
	if t == stringType {
		return nil
	}
	w, ok := reflect.Zero(t).Interface().(interface{ words() []string })
	if !ok || slices.Contains(w.words(), s) {
		return nil
	}
	return faultf("%s is none of %s", clip(s), strings.Join(w.words(), ", "))
}

var (
	addrType   = reflect.TypeFor[netip.Addr]()
	prefixType = reflect.TypeFor[netip.Prefix]()
	stringType = reflect.TypeFor[string]()
	scopeType  = reflect.TypeFor[PeerScope]()
)

// A field is one key of an object.
type field struct {
	name     string
	index    []int
	optional bool
}

// A schema is the keys of an object, in the order they are written.
type schema struct {
	fields []field
	byName map[string]int
}

// maxFields is how many keys of one object can be told apart as seen or not.
const maxFields = 64

var schemas sync.Map // reflect.Type of a struct to *schema

// schemaOf reads a struct's tags: those of encoding/json, of which name and
// omitzero are used. Embedded structs lie flat.
func schemaOf(t reflect.Type) *schema {
	if s, ok := schemas.Load(t); ok {
		return s.(*schema)
	}
	s := &schema{byName: make(map[string]int)}
	for _, f := range reflect.VisibleFields(t) {
		tag, ok := f.Tag.Lookup("json")
		if !ok {
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		s.byName[name] = len(s.fields)
		s.fields = append(s.fields, field{name, f.Index, option == "omitzero"})
	}
	if len(s.fields) > maxFields {
		panic("wire: " + t.String() + " has more fields than can be counted")
	}
	schemas.Store(t, s)
	return s
}
