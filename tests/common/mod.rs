//! Helpers that the integration tests share.

// Every test program compiles this module but uses only a part of it, and nothing outside it can reach it.
#![allow(dead_code, unreachable_pub)]

pub mod models;
pub mod plain;
pub mod small;

use std::fmt::Debug;

/// Asserts that `result` is an error whose message has every one of `parts`, in this order, on one line.
#[track_caller]
pub fn assert_error<T: Debug>(result: probeprune::Result<T>, parts: &[&str]) {
    let message = result.expect_err("a bad input must be refused").to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    assert!(!message.chars().any(char::is_control), "control characters: {message:?}");
    let mut rest = message.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("no {part:?} (in this order) in: {message}") };
        rest = &rest[at + part.len()..];
    }
}
