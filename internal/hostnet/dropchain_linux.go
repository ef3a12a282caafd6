package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// userChain is the chain that Docker has for rules of others, which come before its
// own.
const userChain = "DOCKER-USER"

// DropChains returns the chains of others at the hook of what is forwarded whose
// policy is to drop, and that accept nothing by the links whose names begin with a
// prefix: neither they nor chains they lead to, in either direction. What one of them
// drops no rule of ours can save. Rules of iptables-legacy, which are not nftables',
// are not seen.
func (h *Handle) DropChains(prefix string) (list []DropChain, err error) {
	families := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}
	err = h.nftables(func(c *nftables.Conn) error {
		for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
			chains, err := c.ListChainsOfTableFamily(family)
			if err != nil {
				return err
			}
			for _, chain := range chains {
				if chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookForward || chain.Policy == nil || *chain.Policy != nftables.ChainPolicyDrop {
					continue
				}
				s := acceptSearch{conn: c, table: chain.Table, prefix: prefix, seen: map[string]bool{}}
				if err := s.walk(chain.Name); err != nil {
					return err
				}
				if s.in && s.out {
					continue
				}
				d := DropChain{Family: families[family], Table: chain.Table.Name, Name: chain.Name}
				if slices.ContainsFunc(chains, func(o *nftables.Chain) bool { return o.Table.Name == d.Table && o.Name == userChain }) {
					d.UserChain = userChain
				}
				list = append(list, d)
			}
		}
		return nil
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for chains that drop what is forwarded: %w", err)
	}
	return list, nil
}

// An acceptSearch looks in a chain, and in those it leads to, for rules that accept
// what comes in or goes out by certain links.
type acceptSearch struct {
	conn    *nftables.Conn
	table   *nftables.Table
	prefix  string
	seen    map[string]bool
	in, out bool
}

// maxChains bounds how many chains are looked at.
const maxChains = 64

func (s *acceptSearch) walk(chain string) error {
	if s.seen[chain] || len(s.seen) == maxChains {
		return nil
	}
	s.seen[chain] = true
	rules, err := s.conn.GetRules(s.table, &nftables.Chain{Name: chain})
	if err != nil {
		return err
	}
	for _, r := range rules {
		if err := s.rule(r.Exprs); err != nil {
			return err
		}
	}
	return nil
}

// rule takes a rule in. Whatever else it asks of packets is for who wrote it.
func (s *acceptSearch) rule(exprs []expr.Any) error {
	var key expr.MetaKey // of what was loaded last
	var in, out bool
	for _, e := range exprs {
		var ours bool
		switch e := e.(type) {
		case *expr.Meta:
			key = e.Key
		case *expr.Cmp:
			ours = e.Op == expr.CmpOpEq && s.names(e.Data)
		case *expr.Lookup:
			if !e.Invert && (key == expr.MetaKeyIIFNAME || key == expr.MetaKeyOIFNAME) {
				elements, err := s.conn.GetSetElements(&nftables.Set{Table: s.table, Name: e.SetName})
				if err != nil {
					return err
				}
				ours = slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return s.names(e.Key) })
			}
		case *expr.Verdict:
			switch e.Kind {
			case expr.VerdictAccept:
				s.in, s.out = s.in || in, s.out || out
			case expr.VerdictJump, expr.VerdictGoto:
				if err := s.walk(e.Chain); err != nil {
					return err
				}
			}
		}
		in = in || ours && key == expr.MetaKeyIIFNAME
		out = out || ours && key == expr.MetaKeyOIFNAME
	}
	return nil
}

// names reports whether what a link's name is compared with, which ends in a zero
// when it is the whole, is that of a link of the prefix, or of all of them.
func (s *acceptSearch) names(data []byte) bool {
	name := bytes.TrimRight(data, "\x00")
	return len(name) > 0 && (bytes.HasPrefix(name, []byte(s.prefix)) || len(name) == len(data) && bytes.HasPrefix([]byte(s.prefix), name))
}
