// Package ipam hands out addresses and subnets, IPv4 and IPv6, each once and each
// with an owner.
package ipam
