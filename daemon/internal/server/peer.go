package server

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
)

// A peer is who is at the other end of a connection.
type peer struct {
	uid        uint32
	pid        int      // 0: not known
	groups     []uint32 // as far as they can be told
	privileged bool     // root or the daemon's own user
}

// users are those who may connect.
type users struct {
	group   string // "": none
	gid     uint32
	grouped bool // whether there is such a group
}

// group is the number of the group that may use the socket, and whether there is
// one.
func (s *Server) group() (gid uint32, ok bool) {
	if s.config.Group == "" {
		return 0, false
	}
	g, err := user.LookupGroup(s.config.Group)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err == nil
}

// check tells who is at the other end of a connection, and whether they may be.
func (u users) check(nc net.Conn) (peer, error) {
	p, err := credentials(nc)
	if err != nil {
		return p, fmt.Errorf("who is calling cannot be told, so may not: %w", err)
	}
	own := uint32(os.Geteuid())
	p.privileged = p.privileged || p.uid == 0 || p.uid == own
	if p.privileged || u.grouped && slices.Contains(p.groups, u.gid) {
		return p, nil
	}
	may := "only root may"
	if own != 0 {
		may = fmt.Sprintf("only user %d and root may", own)
	}
	switch {
	case u.grouped:
		may += ", and members of group " + u.group
	case u.group != "":
		may += ", and members of group " + u.group + " if there were one"
	}
	return p, fmt.Errorf("user %d (process %d) may not use this socket: %s", p.uid, p.pid, may)
}
