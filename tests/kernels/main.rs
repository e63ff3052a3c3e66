//! Every kernel against its twin in f64, at sizes that straddle its blocks, on a device with all that the adapter has
//! and on one with WebGPU's default limits.

mod attention;
mod backward;
mod batch;
mod edges;
mod experts;
mod explain;
mod harness;
mod linear;
mod optimiser;
mod pipelines;
mod pointwise;
mod sampling;
mod scan;
mod ssd;
mod step;
