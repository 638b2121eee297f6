//! Every op on every available path against the plain reference, and the independence of results from the batch.

mod attention;
mod cuda;
mod encoder;
mod formats;
mod matmul;
mod small;
mod support;
