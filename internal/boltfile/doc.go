// Package boltfile checks a bbolt file before bbolt is given it: bbolt trusts the
// pages it maps, and a damaged one would crash the process rather than be an error.
// What passes Scan bbolt can be given.
//
// The file is pages of equal size. Pages 0 and 1 are the metas; the one of the
// later transaction that is whole counts and leads to the root of a tree of
// branch and leaf pages, in which values may be trees again. Numbers have the
// machine's own byte order.
//
// Besides it has what else a file needs that one process is to have to itself and
// that must outlive a loss of power: Lock, MakeDir and SyncDir.
package boltfile
