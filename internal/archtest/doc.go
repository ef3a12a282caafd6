// Package archtest holds, as tests, the rules by which this repository is laid
// out: who may import whom, where the operating system and the heavy modules may
// be touched, and that what is exported, and what the README says, is true.
//
// A rule that is in the way is changed here, in its table, with the reason.
package archtest
