package netstack

// defaultLossDetection is not RACK: gVisor's has no allowance for a clock that
// ticks every 15 ms or so, and takes segments for lost (google/gvisor#9778).
const defaultLossDetection = "sack"
