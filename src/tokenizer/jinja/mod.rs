//! Jinja templates as chat templates use them: what Python's Jinja renders in transformers' sandbox, within bounds on work,
//! memory and recursion. A template is somebody else's program.
//!
//! The crates for Jinja bound only part of this: chains of operators, values nested in one another and comparisons of
//! such can still take all memory, time or stack, and numbers and Python's methods differ.

mod ast;
mod budget;
mod conditions;
mod evaluate;
mod expression;
mod filters;
mod format;
mod interpreter;
mod json;
mod lexer;
mod methods;
mod operators;
mod parser;
mod print;
mod sequences;
mod text;
mod value;

use std::{collections::BTreeMap, panic::resume_unwind, thread};

/// Bytes of the longest template: real ones have some tens of thousands.
const LONGEST: usize = 1 << 18;
/// Bytes of stack, for the levels of recursion that the limits allow.
const STACK: usize = 32 << 20;

/// Why a template gives no text.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    /// The line, from 1; 0 where it is not known.
    line: usize,
    reason: String,
    /// Whether a bound was met, rather than an error of the template.
    pub(super) is_limit: bool,
}

type Out<T> = Result<T, Fault>;

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self::at(0, reason)
    }

    fn at(line: usize, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into(), is_limit: false }
    }

    fn limit(line: usize, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into(), is_limit: true }
    }

    fn on_line(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str(&self.reason),
            line => write!(f, "{} (line {line})", self.reason),
        }
    }
}

/// What a template is given.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    /// (role, content) each.
    pub(super) messages: &'a [(&'a str, &'a str)],
    pub(super) add_generation_prompt: bool,
    /// `bos_token` and so on.
    pub(super) tokens: &'a BTreeMap<String, String>,
}

/// The text that the template `source` makes of a conversation.
pub(super) fn render(source: &str, conversation: &Conversation) -> Result<String, Fault> {
    if source.len() > LONGEST {
        return Err(Fault::limit(0, format!("a template of {} bytes, more than {LONGEST}", source.len())));
    }
    let run = || interpreter::run(&parser::parse(lexer::tokens(source)?)?, conversation);
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("chat template".into()).stack_size(STACK);
        match thread.spawn_scoped(scope, run) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(error) => Err(Fault::limit(0, format!("no thread for it: {error}"))),
        }
    })
}
