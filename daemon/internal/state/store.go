package state

import (
	"errors"
	"net/netip"

	"github.com/overlayd/overlayd/daemon/wire"
	"github.com/overlayd/overlayd/overlay"
)

// A Store is a data folder. Its methods are safe for use by several goroutines.
type Store struct{}

// Open opens a data folder, which it makes if need be, of mode 0700, for this
// process alone. One in use by another is a *HeldError, which says by whom.
func Open(dir string) (*Store, error) { return nil, errors.ErrUnsupported }

// Load is everything that is stored.
func (s *Store) Load() (State, error) { return State{}, errors.ErrUnsupported }

// NodeKey is the node's private key. It is made at the first call there ever is.
func (s *Store) NodeKey() (overlay.PrivateKey, error) {
	return overlay.PrivateKey{}, errors.ErrUnsupported
}

// Update changes what is stored: all that fn does, or, when fn or the disk fails,
// nothing. It is on the disk when Update returns; updates that come while another
// is written go to the disk together.
func (s *Store) Update(fn func(tx *Tx) error) error { return errors.ErrUnsupported }

// Close releases the folder.
func (s *Store) Close() error { return nil }

// A Tx is a change, good within the function given to Update. Its methods keep the
// first error, which Update returns. To put what is there already replaces it; to
// delete what is not is no error.
type Tx struct{}

func (tx *Tx) SetNode(n Node)                                            {}
func (tx *Tx) PutService(s Service)                                      {}
func (tx *Tx) DeleteService(name string)                                 {}
func (tx *Tx) PutPeer(p Peer)                                            {}
func (tx *Tx) DeletePeer(service, key string)                            {}
func (tx *Tx) PutAttachment(a Attachment)                                {}
func (tx *Tx) DeleteAttachment(id string)                                {}
func (tx *Tx) PutRecord(r Record)                                        {}
func (tx *Tx) DeleteRecord(r Record)                                     {}
func (tx *Tx) PutPort(p wire.PublishedPort)                              {}
func (tx *Tx) DeletePort(proto wire.Proto, host netip.Addr, port uint16) {}
