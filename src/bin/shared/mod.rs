//! Modules that the programs share. Each program uses some of them.

#![allow(dead_code)]

pub(crate) mod args;
pub(crate) mod command_line;
pub(crate) mod device;
pub(crate) mod failure;
pub(crate) mod flags;
pub(crate) mod input;
pub(crate) mod interrupt;
pub(crate) mod memory;
pub(crate) mod probe;
pub(crate) mod progress;
pub(crate) mod statistics;
pub(crate) mod table;
pub(crate) mod terminal;
