// Package boltfile is a bbolt file that one process has to itself, that outlives a
// loss of power, and that says so when it is not what was written: Hold, Open and
// Commit.
//
// A file is checked before bbolt is given it: bbolt trusts the pages it maps, and
// a damaged one would crash the process rather than be an error. What passes scan
// bbolt can be given.
//
// The file is pages of equal size. Pages 0 and 1 are the metas; the one of the
// later transaction that is whole counts and leads to the root of a tree of
// branch and leaf pages, in which values may be trees again. Numbers have the
// machine's own byte order.
package boltfile
