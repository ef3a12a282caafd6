package state

import (
	"fmt"
	"net/netip"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/internal/boltfile"
)

// A Tx is a change, good within the function given to Update. Its methods keep the
// first error, which Update returns. To put what is there already replaces it; to
// delete what is not is no error.
//
// A name, id or public key that an entry is found by has 1 to 512 bytes of UTF-8
// without a zero byte, and an entry at most 1 MiB of JSON.
type Tx struct {
	node    []byte // nil: none
	changes []boltfile.Change
	err     error
}

// Node is what there is one of, as all updates until now and this one have it. It
// is the caller's own: change the part that is to change, and give it to SetNode.
func (tx *Tx) Node() (n Node) {
	if tx.node == nil {
		return n
	}
	key, err := nodes.keyOf(n)
	if err == nil {
		n, err = nodes.decode(key, tx.node)
	}
	tx.fail(err)
	return n
}

// SetNode replaces all of what there is one of.
func (tx *Tx) SetNode(n Node) {
	if value, ok := put(tx, nodes, n); ok {
		tx.node = value
	}
}

// PutService stores a service, by its name.
func (tx *Tx) PutService(s Service) { put(tx, services, s) }

// DeleteService forgets a service.
func (tx *Tx) DeleteService(name string) { remove(tx, services, Service{Name: name}) }

// PutPeer stores a peer, by its service and public key.
func (tx *Tx) PutPeer(p Peer) { put(tx, peers, p) }

// DeletePeer forgets the peer of a service with a public key; service "" is the
// node.
func (tx *Tx) DeletePeer(service, key string) {
	remove(tx, peers, Peer{Service: service, PeerSpec: wire.PeerSpec{PublicKey: key}})
}

// PutAttachment stores an attachment, by its id.
func (tx *Tx) PutAttachment(a Attachment) { put(tx, attachments, a) }

// DeleteAttachment forgets an attachment.
func (tx *Tx) DeleteAttachment(id string) { remove(tx, attachments, Attachment{ID: id}) }

// PutRecord stores a record.
func (tx *Tx) PutRecord(r Record) { put(tx, records, r) }

// DeleteRecord forgets a record.
func (tx *Tx) DeleteRecord(r Record) { remove(tx, records, r) }

// PutPort stores a published port, by its protocol and the host's address and port.
func (tx *Tx) PutPort(p wire.PublishedPort) { put(tx, ports, p) }

// DeletePort forgets a published port. host is as it was published: the zero Addr
// means all of the host's.
func (tx *Tx) DeletePort(proto wire.Proto, host netip.Addr, port uint16) {
	remove(tx, ports, wire.PublishedPort{Proto: proto, HostIP: host, HostPort: port})
}

func put[E any](tx *Tx, t table[E], e E) (value []byte, ok bool) {
	key, value, err := t.encode(e)
	if err != nil {
		tx.fail(fmt.Errorf("recording in table %s: %w", t.name, err))
		return nil, false
	}
	tx.changes = append(tx.changes, boltfile.Change{Bucket: t.name, Key: key, Value: value})
	return value, true
}

func remove[E any](tx *Tx, t table[E], e E) {
	key, err := t.keyOf(e)
	if err != nil {
		tx.fail(fmt.Errorf("deleting from table %s: %w", t.name, err))
		return
	}
	tx.changes = append(tx.changes, boltfile.Change{Bucket: t.name, Key: key})
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}
