//! The reference interpreter: each op on cases worked out by hand, fused ops against what they are made of, whole layers
//! in one chunk and token by token, and the stored intermediates of an outside reference.

mod attention;
mod call;
mod files;
mod fixture;
mod gguf;
mod layer;
mod linear;
mod norm;
mod oracle;
mod params;
mod random;
mod rope;
