// Package testnet is what tests and benchmarks run on instead of a network:
// fakes of our own interfaces, simulated links, and, on Linux and as root, real
// network namespaces that the test makes itself. Nothing in it reaches beyond
// the machine, and nothing of it is left when the process ends, however it ends.
package testnet
