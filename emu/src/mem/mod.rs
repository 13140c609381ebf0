//! Memory: device buffers, the shared memory of a block, and the address map they live in.

pub(crate) mod buffer;
pub(crate) mod device;
pub(crate) mod plain;
pub(crate) mod shared;
pub(crate) mod space;
