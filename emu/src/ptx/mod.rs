//! PTX text to a resolved syntax tree.
//!
//! Besides PTX itself one comment is read: `// ptx-emu.carve ADDRESS BYTES`, which a kernel's shared-memory carving
//! helper emits from inline assembly so that the bounds of sub-arrays of dynamic shared memory survive compilation.

pub(crate) mod ast;
mod body;
pub(crate) mod lexer;
mod parser;
mod scope;
pub(crate) mod types;

pub(crate) use parser::parse;
