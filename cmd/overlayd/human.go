package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// bytesText is an amount of bytes, with three digits at most.
func bytesText(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	f := float64(n)
	unit := -1
	for f >= 999.5 && unit < 5 {
		f /= 1024
		unit++
	}
	digits := 1
	if f >= 99.95 {
		digits = 0
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + " " + string("KMGTPE"[unit]) + "iB"
}

// ageText is a time that has passed, in its two largest units.
func ageText(secs uint64) string {
	units := []struct {
		name string
		secs uint64
	}{{"d", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}}
	for i, u := range units {
		n := secs / u.secs
		if n == 0 {
			continue
		}
		text := fmt.Sprintf("%d %s", n, u.name)
		if i+1 < len(units) && n < 10 {
			if next := units[i+1]; secs%u.secs/next.secs > 0 {
				text += fmt.Sprintf(" %d %s", secs%u.secs/next.secs, next.name)
			}
		}
		return text
	}
	return "0 s"
}

// sinceText is how long ago a moment was, in Unix seconds.
func sinceText(now time.Time, unix int64) string {
	if unix <= 0 {
		return ""
	}
	return ageText(uint64(max(0, now.Unix()-unix)))
}

// keyText is a public key by as much as tells one from another.
func keyText(key string) string {
	const enough = 10
	if len(key) <= enough {
		return key
	}
	return key[:enough] + "…"
}

// counted is a number of things.
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// joined are values with a space between them.
func joined[T fmt.Stringer](all []T) string {
	parts := make([]string, len(all))
	for i, v := range all {
		parts[i] = v.String()
	}
	return strings.Join(parts, " ")
}

// addrText is an address, or nothing.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// portText is a port, or nothing.
func portText(port uint16) string {
	if port == 0 {
		return ""
	}
	return strconv.Itoa(int(port))
}
