//! Tokens to [`ast`](super::ast): directives, variables and the heads of kernels. Bodies are in [`body`](super::body).

use super::{
    ast::{Function, Module, Param, Space, Var},
    lexer::{self, Number, Token},
    types::Ty,
};
use crate::error::{Error, Result};

/// Largest variable that is accepted: more is a mistake, and would exhaust the host.
const MAX_VAR: usize = 1 << 28;

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Module> {
    Parser { tokens: lexer::lex(text)?, at: 0, module: Module::default() }.module()
}

/// A position in the tokens, and the module so far.
pub(super) struct Parser {
    pub(super) tokens: Vec<(Token, u32)>,
    pub(super) at: usize,
    pub(super) module: Module,
}

impl Parser {
    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    pub(super) fn line(&self) -> u32 {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or(1, |t| t.1)
    }

    pub(super) fn fail<T>(&self, expected: &str) -> Result<T> {
        let got = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(Token::Punct(c)) => format!("`{}`", *c as char),
            Some(Token::Word(w)) => format!("`{w}`"),
            Some(t) => format!("{t:?}"),
        };
        Err(Error::parse(self.line(), format!("expected {expected}, got {got}")))
    }

    pub(super) fn eat(&mut self, punct: u8) -> bool {
        let hit = self.peek() == Some(&Token::Punct(punct));
        self.at += usize::from(hit);
        hit
    }

    pub(super) fn expect(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct) { Ok(()) } else { self.fail(&format!("`{}`", punct as char)) }
    }

    pub(super) fn word(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            _ => self.fail(what),
        }
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let hit = matches!(self.peek(), Some(Token::Word(w)) if w == word);
        self.at += usize::from(hit);
        hit
    }

    pub(super) fn int(&mut self) -> Result<u64> {
        match self.peek() {
            Some(&Token::Number(Number::Int(v))) => {
                self.at += 1;
                Ok(v)
            }
            _ => self.fail("a number"),
        }
    }

    fn size(&mut self) -> Result<usize> {
        let v = self.int()?;
        usize::try_from(v)
            .ok()
            .filter(|v| *v <= MAX_VAR)
            .map_or_else(|| self.fail("a size below 256 MiB"), Ok)
    }

    fn alignment(&mut self) -> Result<usize> {
        let v = self.size()?;
        if v.is_power_of_two() { Ok(v) } else { self.fail("an alignment that is a power of two") }
    }

    /// Steps over the rest of a line: directives that end without a semicolon.
    fn skip_line(&mut self, line: u32) {
        while self.tokens.get(self.at).is_some_and(|t| t.1 == line) {
            self.at += 1;
        }
    }

    fn skip_block(&mut self) -> Result<()> {
        let mut depth = 0;
        loop {
            match self.peek() {
                None => return self.fail("`}`"),
                Some(Token::Punct(b'{')) => depth += 1,
                Some(Token::Punct(b'}')) => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn module(mut self) -> Result<Module> {
        while let Some(token) = self.peek() {
            let Token::Word(word) = token else { return self.fail("a directive") };
            let line = self.tokens[self.at].1;
            match word.clone().as_str() {
                ".version" | ".address_size" => self.skip_line(line),
                ".target" => {
                    self.at += 1;
                    self.module.target = self.word("a target")?;
                    self.skip_line(line);
                }
                ".file" => {
                    self.at += 1;
                    let number = self.int()? as u32;
                    match self.peek().cloned() {
                        Some(Token::Text(name)) => self.module.files.push((number, name)),
                        _ => return self.fail("a file name"),
                    }
                    self.skip_line(line);
                }
                ".section" => {
                    self.at += 1;
                    self.word("a section name")?;
                    if self.peek() != Some(&Token::Punct(b'{')) {
                        return self.fail("`{`");
                    }
                    self.skip_block()?;
                }
                ".visible" | ".weak" | ".extern" | ".common" => self.at += 1,
                ".entry" => {
                    self.at += 1;
                    let f = self.function()?;
                    self.module.functions.push(f);
                }
                ".func" => {
                    // Device functions are only reached by `call`, which is refused where a kernel uses it.
                    while !matches!(self.peek(), None | Some(Token::Punct(b'{' | b';'))) {
                        self.at += 1;
                    }
                    if !self.eat(b';') {
                        self.skip_block()?;
                    }
                }
                ".global" | ".const" | ".shared" => {
                    let var = self.variable()?;
                    self.module.globals.push(var);
                }
                _ => return self.fail("a module-level directive"),
            }
        }
        Ok(self.module)
    }

    /// `.shared .align 16 .b8 name[64] = {1, 2};`
    pub(super) fn variable(&mut self) -> Result<Var> {
        let space = match self.word("a state space")?.as_str() {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            _ => Space::Local,
        };
        let (mut align, mut ty) = (None, None);
        while let Some(Token::Word(w)) = self.peek().cloned() {
            if w == ".align" {
                self.at += 1;
                align = Some(self.alignment()?);
            } else if let Some(t) = w.strip_prefix('.').and_then(Ty::parse) {
                self.at += 1;
                ty = Some(t);
            } else if w.starts_with('.') {
                return self.fail("a type or an alignment");
            } else {
                break;
            }
        }
        let Some(ty) = ty else { return self.fail("a type") };
        let name = self.word("a variable's name")?;
        let mut count = Some(1);
        while self.eat(b'[') {
            if self.eat(b']') {
                count = None;
                continue;
            }
            let n = self.size()?;
            self.expect(b']')?;
            count = count.map(|c: usize| c.saturating_mul(n));
        }
        let size = count.map(|c| c.saturating_mul(ty.size()));
        if size.is_some_and(|s| s > MAX_VAR) {
            return self.fail("a variable below 256 MiB");
        }
        let mut init = Vec::new();
        if self.eat(b'=') {
            let braces = self.eat(b'{');
            loop {
                let minus = self.eat(b'-');
                let bits = match self.peek() {
                    Some(&Token::Number(Number::Int(v))) => v,
                    Some(&Token::Number(Number::F32(v))) => u64::from(v),
                    Some(&Token::Number(Number::F64(v))) => v,
                    _ => return self.fail("a number as initial value"),
                };
                self.at += 1;
                let bits = if minus { bits.wrapping_neg() } else { bits };
                init.extend_from_slice(&bits.to_le_bytes()[..ty.size()]);
                if !(braces && self.eat(b',')) {
                    break;
                }
            }
            if braces {
                self.expect(b'}')?;
            }
        }
        self.expect(b';')?;
        if init.len() > size.unwrap_or(0) {
            return self.fail("no more initial values than elements");
        }
        Ok(Var { name, space, align: align.unwrap_or(ty.size()), size, init })
    }

    fn function(&mut self) -> Result<Function> {
        let mut f = Function { line: self.line(), ..Function::default() };
        f.name = self.word("a kernel's name")?;
        if self.eat(b'(') && !self.eat(b')') {
            loop {
                let param = self.param(f.params.last())?;
                f.params.push(param);
                if !self.eat(b',') {
                    break;
                }
            }
            self.expect(b')')?;
        }
        while let Some(Token::Word(w)) = self.peek().cloned() {
            self.at += 1;
            let mut dims = [1u64; 3];
            let mut n = 0;
            while n < 3 && matches!(self.peek(), Some(Token::Number(_))) {
                dims[n] = self.int()?;
                n += 1;
                if !self.eat(b',') {
                    break;
                }
            }
            match w.as_str() {
                ".maxntid" => f.max_threads = Some(dims.iter().fold(1, |a: u64, d| a.saturating_mul(*d))),
                ".reqntid" => f.req_threads = Some(dims.map(|d| d as u32)),
                ".minnctapersm" | ".maxnreg" => {}
                _ => return Err(Error::parse(self.line(), format!("unknown kernel directive `{w}`"))),
            }
        }
        self.body(&mut f)?;
        Ok(f)
    }

    fn param(&mut self, before: Option<&Param>) -> Result<Param> {
        if !self.eat_word(".param") {
            return self.fail("`.param`");
        }
        let (mut align, mut ty) = (None, None);
        while let Some(Token::Word(w)) = self.peek().cloned() {
            if !w.starts_with('.') {
                break;
            }
            self.at += 1;
            match w.as_str() {
                ".align" => align = Some(self.alignment()?),
                ".ptr" | ".global" | ".shared" | ".const" | ".local" => {}
                _ => match Ty::parse(&w[1..]) {
                    Some(t) => ty = Some(t),
                    None => return self.fail("a parameter's type"),
                },
            }
        }
        let Some(ty) = ty else { return self.fail("a parameter's type") };
        let name = self.word("a parameter's name")?;
        let mut count = 1;
        if self.eat(b'[') {
            count = self.size()?;
            self.expect(b']')?;
        }
        // `.ptr .align n` speaks of what the pointer points to.
        let align = if count == 1 { ty.size() } else { align.unwrap_or(ty.size()) };
        let end = before.map_or(0, |p| p.offset + p.size);
        let size = count.saturating_mul(ty.size());
        if end + size > MAX_VAR {
            return self.fail("parameters below 256 MiB");
        }
        Ok(Param { name, offset: end.next_multiple_of(align), size, align })
    }
}
