package boltfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// PageSize is the only size of pages that scan takes, in bytes: make the file with
// it, whatever the system's own is.
const PageSize = 4096

const (
	pageHeader = 16
	elemHeader = 16

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageMeta     = 0x04
	pageFreelist = 0x10

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaLen     = 64
	noFreelist  = math.MaxUint64

	elemBucket   = 0x01
	bucketHeader = 16

	maxDepth = 64
)

var order = binary.NativeEndian

// A damage is why a file cannot be what was written.
type damage string

func (d damage) Error() string { return string(d) }

// damaged is a damage in the words of fmt.Sprintf.
func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// scan reads a file of the given size, checks that every page is sound and used
// once and that every bucket is in order, and yields the pairs of its top-level
// buckets. Key and value are only good until yield returns. What scan finds
// wrong is a damage; other errors are yield's and those of reading.
func scan(f io.ReaderAt, size int64, yield func(bucket string, key, value []byte) error) error {
	s := scanner{f: f, size: size}
	root, err := s.readMeta()
	if err != nil {
		return err
	}
	return s.tree(root, 0, func(name, value []byte, isBucket bool) error {
		if !isBucket {
			return damaged("a value among the buckets")
		}
		bucket := string(name)
		return s.bucket(value, 1, func(k, v []byte, isBucket bool) error {
			if isBucket {
				return damaged("bucket %q has a bucket in it", bucket)
			}
			return yield(bucket, k, v)
		})
	})
}

type scanner struct {
	f    io.ReaderAt
	size int64
	high uint64   // pages from this one on are not in use
	used []uint64 // a bit for each page
}

// readMeta finds the meta that counts and returns the root page.
func (s *scanner) readMeta() (root uint64, err error) {
	if s.size < 4*PageSize {
		return 0, damaged("%d bytes are too short", s.size)
	}
	var best []byte
	// bbolt takes the first whole meta it finds at one of these places for the page
	// size. The middle two are nobody's.
	for _, at := range []int64{0, 1024, 2048, PageSize} {
		page := make([]byte, pageHeader+metaLen)
		if _, err := s.f.ReadAt(page, at); err != nil {
			return 0, err
		}
		m := page[pageHeader:]
		if !wholeMeta(m) {
			continue
		}
		if at%PageSize != 0 || order.Uint32(m[8:]) != PageSize {
			return 0, damaged("a meta page at %d is for pages of %d bytes", at, order.Uint32(m[8:]))
		}
		if best == nil || metaTxid(best) < metaTxid(m) {
			best = m
		}
	}
	if best == nil {
		return 0, damaged("neither meta page is whole")
	}
	s.high = order.Uint64(best[40:])
	if s.high < 4 || s.high > uint64(s.size)/PageSize {
		return 0, damaged("%d pages in use do not fit in %d bytes", s.high, s.size)
	}
	s.used = make([]uint64, s.high/64+1)
	s.mark(0, 2)
	if err := s.freelist(order.Uint64(best[32:])); err != nil {
		return 0, err
	}
	return order.Uint64(best[16:]), nil
}

// wholeMeta reports whether a meta was written whole: magic, version, page size
// and flags, root and its sequence, freelist, high water mark, transaction, and
// the FNV-1a 64 of all of them.
func wholeMeta(m []byte) bool {
	return order.Uint32(m) == metaMagic && order.Uint32(m[4:]) == metaVersion &&
		order.Uint64(m[56:]) == sumOf(m[:56])
}

func sumOf(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

func metaTxid(m []byte) uint64 { return order.Uint64(m[48:]) }

// mark takes n pages from id on as used, and reports whether they could be.
func (s *scanner) mark(id, n uint64) bool {
	if id >= s.high || n > s.high-id {
		return false
	}
	for ; n > 0; id, n = id+1, n-1 {
		if s.used[id/64]&(1<<(id%64)) != 0 {
			return false
		}
		s.used[id/64] |= 1 << (id % 64)
	}
	return true
}

// page reads a page and those that continue it.
func (s *scanner) page(id uint64) (page []byte, flags, count uint16, err error) {
	if id >= s.high {
		return nil, 0, 0, damaged("page %d is past the end", id)
	}
	page = make([]byte, PageSize)
	if _, err := s.f.ReadAt(page, int64(id)*PageSize); err != nil {
		return nil, 0, 0, err
	}
	overflow := uint64(order.Uint32(page[12:]))
	if order.Uint64(page) != id {
		return nil, 0, 0, damaged("page %d says it is page %d", id, order.Uint64(page))
	}
	if !s.mark(id, 1+overflow) {
		return nil, 0, 0, damaged("page %d is used twice or is too long", id)
	}
	if overflow > 0 {
		page = append(page, make([]byte, overflow*PageSize)...)
		if _, err := s.f.ReadAt(page[PageSize:], int64(id+1)*PageSize); err != nil {
			return nil, 0, 0, err
		}
	}
	return page, order.Uint16(page[8:]), order.Uint16(page[10:]), nil
}

// freelist checks the list of free pages, where the file has one: it must not
// name a page that is used.
func (s *scanner) freelist(id uint64) error {
	if id == noFreelist {
		return nil
	}
	page, flags, count, err := s.page(id)
	if err != nil {
		return err
	}
	if flags != pageFreelist {
		return damaged("page %d is not the free list", id)
	}
	list := page[pageHeader:]
	n := uint64(count)
	if count == math.MaxUint16 { // bbolt: the count proper is the first entry
		n, list = order.Uint64(list), list[8:]
	}
	if n > uint64(len(list))/8 {
		return damaged("the free list is longer than its page")
	}
	for i := range n {
		if free := order.Uint64(list[i*8:]); !s.mark(free, 1) {
			return damaged("page %d is free twice, or used", free)
		}
	}
	return nil
}

// bucket walks the tree in a bucket's value: on pages of its own, or, of a small
// one, in the value itself.
func (s *scanner) bucket(value []byte, depth int, yield func(k, v []byte, isBucket bool) error) error {
	if len(value) < bucketHeader {
		return damaged("a bucket of %d bytes", len(value))
	}
	if root := order.Uint64(value); root != 0 {
		return s.tree(root, depth, yield)
	}
	page := value[bucketHeader:]
	if len(page) < pageHeader || order.Uint16(page[8:]) != pageLeaf {
		return damaged("an inline bucket without its page")
	}
	var last []byte
	return s.leaf(page, order.Uint16(page[10:]), &last, yield)
}

// tree walks the tree of a root page in the order of its keys.
func (s *scanner) tree(root uint64, depth int, yield func(k, v []byte, isBucket bool) error) error {
	var last []byte // nil before the first key
	return s.walk(root, depth, nil, &last, yield)
}

// walk walks a page of a tree. least is the key its parent has for it, and last
// the one that was yielded last.
func (s *scanner) walk(id uint64, depth int, least []byte, last *[]byte, yield func(k, v []byte, isBucket bool) error) error {
	if depth > maxDepth {
		return damaged("page %d is too deep", id)
	}
	page, flags, count, err := s.page(id)
	if err != nil {
		return err
	}
	if *last != nil && least != nil && bytes.Compare(*last, least) >= 0 {
		return damaged("page %d is out of order", id)
	}
	switch flags {
	case pageLeaf:
		first := true
		return s.leaf(page, count, last, func(k, v []byte, isBucket bool) error {
			if first && bytes.Compare(k, least) < 0 {
				return damaged("page %d begins below its parent's key", id)
			}
			first = false
			return yield(k, v, isBucket)
		})
	case pageBranch:
		if count == 0 {
			return damaged("page %d is an empty branch", id)
		}
		for i := range int(count) {
			key, child, err := branchElem(page, i)
			if err != nil {
				return err
			}
			if i == 0 && bytes.Compare(key, least) < 0 {
				return damaged("page %d begins below its parent's key", id)
			}
			if err := s.walk(child, depth+1, key, last, yield); err != nil {
				return err
			}
		}
		return nil
	}
	return damaged("page %d is of no known kind: %#x", id, flags)
}

// leaf yields the pairs of a leaf page, whose keys rise.
func (s *scanner) leaf(page []byte, count uint16, last *[]byte, yield func(k, v []byte, isBucket bool) error) error {
	for i := range int(count) {
		key, value, flags, err := leafElem(page, i)
		if err != nil {
			return err
		}
		if flags > elemBucket {
			return damaged("an element of no known kind: %#x", flags)
		}
		if *last != nil && bytes.Compare(*last, key) >= 0 {
			return damaged("keys out of order")
		}
		*last = append((*last)[:0], key...)
		if err := yield(key, value, flags == elemBucket); err != nil {
			return err
		}
	}
	return nil
}

// branchElem is element i of a branch page: where its key is, how long that is,
// and the child.
func branchElem(page []byte, i int) (key []byte, child uint64, err error) {
	at := pageHeader + i*elemHeader
	if at+elemHeader > len(page) {
		return nil, 0, damaged("a branch is longer than its page")
	}
	e := page[at:]
	key, _, err = elemBytes(e, order.Uint32(e), order.Uint32(e[4:]), 0)
	return key, order.Uint64(e[8:]), err
}

// leafElem is element i of a leaf page: flags, where its key is, the lengths of
// key and value.
func leafElem(page []byte, i int) (key, value []byte, flags uint32, err error) {
	at := pageHeader + i*elemHeader
	if at+elemHeader > len(page) {
		return nil, nil, 0, damaged("a leaf is longer than its page")
	}
	e := page[at:]
	key, value, err = elemBytes(e, order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:]))
	return key, value, order.Uint32(e), err
}

// elemBytes is key and value, which lie after one another at pos from the
// element's beginning.
func elemBytes(e []byte, pos, keyLen, valueLen uint32) (key, value []byte, err error) {
	end := uint64(pos) + uint64(keyLen) + uint64(valueLen)
	if pos < elemHeader || keyLen == 0 || end > uint64(len(e)) {
		return nil, nil, damaged("an element has no key, or reaches out of its page")
	}
	return e[pos : pos+keyLen], e[pos+keyLen : end], nil
}
