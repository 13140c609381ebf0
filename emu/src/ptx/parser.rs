//! Tokens to [`ast`](super::ast).

use std::collections::HashMap;

use super::{
    ast::{Function, Instr, Loc, Module, Operand, Param, RegId, Space, Var},
    lexer::{self, CARVE, Number, Token},
    scope::Scopes,
    types::Ty,
};
use crate::error::{Error, Result};

/// Largest variable that is accepted: more is a mistake, and would exhaust the host.
const MAX_VAR: usize = 1 << 30;

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Module> {
    Parser { tokens: lexer::lex(text)?, at: 0, module: Module::default() }.module()
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    module: Module,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }

    fn line(&self) -> u32 {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or(1, |t| t.1)
    }

    fn fail<T>(&self, expected: &str) -> Result<T> {
        let got = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(Token::Punct(c)) => format!("`{}`", *c as char),
            Some(Token::Word(w)) => format!("`{w}`"),
            Some(t) => format!("{t:?}"),
        };
        Err(Error::parse(self.line(), format!("expected {expected}, got {got}")))
    }

    fn eat(&mut self, punct: u8) -> bool {
        let hit = self.peek() == Some(&Token::Punct(punct));
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct) { Ok(()) } else { self.fail(&format!("`{}`", punct as char)) }
    }

    fn word(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            _ => self.fail(what),
        }
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let hit = matches!(self.peek(), Some(Token::Word(w)) if w == word);
        self.at += usize::from(hit);
        hit
    }

    fn int(&mut self) -> Result<u64> {
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
        usize::try_from(v).ok().filter(|v| *v <= MAX_VAR).map_or_else(|| self.fail("a size below 1 GiB"), Ok)
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
    fn variable(&mut self) -> Result<Var> {
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
            return self.fail("a variable below 1 GiB");
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
            return self.fail("parameters below 1 GiB");
        }
        Ok(Param { name, offset: end.next_multiple_of(align), size, align })
    }

    fn body(&mut self, f: &mut Function) -> Result<()> {
        self.expect(b'{')?;
        let mut scopes = Scopes::new();
        let mut here = None;
        let mut known: HashMap<(u32, u32, u32), u32> = HashMap::new();
        loop {
            let line = self.line();
            match self.peek().cloned() {
                None => return self.fail("`}`"),
                Some(Token::Punct(b'{')) => {
                    self.at += 1;
                    scopes.enter();
                }
                Some(Token::Punct(b'}')) => {
                    self.at += 1;
                    scopes.leave(f)?;
                    if scopes.depth() == 0 {
                        return Ok(());
                    }
                }
                Some(Token::Punct(b';')) => self.at += 1,
                Some(Token::Carve) => {
                    self.at += 1;
                    let operands = vec![self.operand(f, &mut scopes)?, self.operand(f, &mut scopes)?];
                    self.expect(b';')?;
                    f.instrs.push(Instr { guard: None, op: CARVE.to_owned(), operands, line, loc: here });
                }
                Some(Token::Word(w)) if w == ".reg" => {
                    self.at += 1;
                    self.registers(f, &mut scopes)?;
                }
                Some(Token::Word(w)) if w == ".loc" => here = self.loc(f, &mut known)?,
                Some(Token::Word(w)) if w == ".shared" || w == ".local" => {
                    let var = self.variable()?;
                    f.vars.push(var);
                }
                Some(Token::Word(w)) if w == ".pragma" => {
                    while !matches!(self.peek(), None | Some(Token::Punct(b';'))) {
                        self.at += 1;
                    }
                }
                Some(Token::Word(w))
                    if self.tokens.get(self.at + 1).map(|t| &t.0) == Some(&Token::Punct(b':')) =>
                {
                    self.at += 2;
                    scopes.define_label(f, &w, line)?;
                }
                Some(Token::Word(_) | Token::Punct(b'@')) => {
                    let instr = self.instruction(f, &mut scopes, here)?;
                    f.instrs.push(instr);
                }
                _ => return self.fail("an instruction"),
            }
        }
    }

    /// `.reg .b32 %r<93>;` or `.reg .pred p, q;`
    fn registers(&mut self, f: &mut Function, scopes: &mut Scopes) -> Result<()> {
        let ty = self.word("a register's type")?;
        let Some(ty) = ty.strip_prefix('.').and_then(Ty::parse) else {
            return self.fail("a register's type");
        };
        loop {
            let line = self.line();
            let name = self.word("a register's name")?;
            let mut count = None;
            if self.eat(b'<') {
                count = Some(self.int()?);
                self.expect(b'>')?;
            }
            scopes.declare(f, &name, count, ty, line)?;
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    /// `.loc 2 175 3, function_name $L, inlined_at 1 34 9`, up to the end of the line.
    fn loc(&mut self, f: &mut Function, known: &mut HashMap<(u32, u32, u32), u32>) -> Result<Option<u32>> {
        let line = self.line();
        self.at += 1;
        let (file, at, column) = (self.int()? as u32, self.int()? as u32, self.int()? as u32);
        let mut inlined_at = None;
        while self.tokens.get(self.at).is_some_and(|t| t.1 == line) {
            if self.eat_word("inlined_at") {
                let call = (self.int()? as u32, self.int()? as u32, self.int()? as u32);
                inlined_at = Some(*known.entry(call).or_insert_with(|| {
                    f.locs.push(Loc { file: call.0, line: call.1, column: call.2, inlined_at: None });
                    f.locs.len() as u32 - 1
                }));
            } else {
                self.at += 1;
            }
        }
        let loc = Loc { file, line: at, column, inlined_at };
        let index = match f.locs.iter().rposition(|l| *l == loc) {
            Some(i) => i as u32,
            None => {
                f.locs.push(loc);
                f.locs.len() as u32 - 1
            }
        };
        known.insert((file, at, column), index);
        Ok(Some(index))
    }

    fn instruction(&mut self, f: &mut Function, scopes: &mut Scopes, loc: Option<u32>) -> Result<Instr> {
        let line = self.line();
        let mut guard = None;
        if self.eat(b'@') {
            let negated = self.eat(b'!');
            guard = Some((self.register(f, scopes)?, negated));
        }
        let op = self.word("an opcode")?;
        let mut operands = Vec::new();
        if op.starts_with("call") {
            // Its operands have a grammar of their own, and the decoder refuses it anyway.
            while !matches!(self.peek(), None | Some(Token::Punct(b';'))) {
                self.at += 1;
            }
        } else if self.peek() != Some(&Token::Punct(b';')) {
            loop {
                operands.push(self.operand(f, scopes)?);
                if !self.eat(b',') {
                    break;
                }
            }
        }
        self.expect(b';')?;
        Ok(Instr { guard, op, operands, line, loc })
    }

    fn register(&mut self, _f: &Function, scopes: &Scopes) -> Result<RegId> {
        let line = self.line();
        let name = self.word("a register")?;
        scopes.register(&name).ok_or_else(|| Error::parse(line, format!("no register `{name}`")))
    }

    fn operand(&mut self, f: &mut Function, scopes: &mut Scopes) -> Result<Operand> {
        let line = self.line();
        match self.peek().cloned() {
            Some(Token::Number(n)) => {
                self.at += 1;
                Ok(match n {
                    Number::Int(v) => Operand::Int(v as i64),
                    Number::F32(b) => Operand::F32(b),
                    Number::F64(b) => Operand::F64(b),
                })
            }
            Some(Token::Punct(b'-')) => {
                self.at += 1;
                Ok(Operand::Int((self.int()? as i64).wrapping_neg()))
            }
            Some(Token::Punct(b'!')) => {
                self.at += 1;
                Ok(Operand::Not(self.register(f, scopes)?))
            }
            Some(Token::Punct(b'{')) => {
                self.at += 1;
                let mut items = Vec::new();
                loop {
                    // Vectors do not nest: refusing here keeps hostile text from recursing.
                    if self.peek() == Some(&Token::Punct(b'{')) || self.peek() == Some(&Token::Punct(b'[')) {
                        return self.fail("a register or a number");
                    }
                    items.push(self.operand(f, scopes)?);
                    if !self.eat(b',') {
                        break;
                    }
                }
                self.expect(b'}')?;
                Ok(Operand::Vector(items))
            }
            Some(Token::Punct(b'[')) => {
                self.at += 1;
                if matches!(self.peek(), Some(Token::Punct(b'{' | b'['))) {
                    return self.fail("an address");
                }
                let base = self.operand(f, scopes)?;
                if self.eat(b',') {
                    let coordinates = match self.peek() {
                        Some(Token::Punct(b'{')) => self.operand(f, scopes)?,
                        _ => return self.fail("`{`"),
                    };
                    self.expect(b']')?;
                    let Operand::Vector(items) = coordinates else { return self.fail("coordinates") };
                    return Ok(Operand::Tensor(Box::new(base), items));
                }
                let (base, offset) = match base {
                    Operand::Symbol(s, o) => (Operand::Symbol(s, 0), o),
                    Operand::Int(v) => (Operand::Int(0), v),
                    b => (b, self.offset()?),
                };
                self.expect(b']')?;
                Ok(Operand::Memory(Box::new(base), offset))
            }
            Some(Token::Word(w)) => {
                self.at += 1;
                if w == "_" {
                    if self.eat(b'|') {
                        return Ok(Operand::Pair(None, self.register(f, scopes)?));
                    }
                    return Ok(Operand::Sink);
                }
                if let Some(a) = scopes.register(&w) {
                    if self.eat(b'|') {
                        return Ok(Operand::Pair(Some(a), self.register(f, scopes)?));
                    }
                    return Ok(Operand::Reg(a));
                }
                if w.starts_with('%') {
                    return Ok(Operand::Special(w));
                }
                let var = |v: &Var| v.name == w;
                if f.params.iter().any(|p| p.name == w)
                    || f.vars.iter().any(var)
                    || self.module.globals.iter().any(var)
                {
                    let offset = self.offset()?;
                    return Ok(Operand::Symbol(w, offset));
                }
                Ok(Operand::Label(scopes.use_label(f, &w, line)))
            }
            _ => self.fail("an operand"),
        }
    }

    /// `+8`, `+-8`, `-8` or nothing.
    fn offset(&mut self) -> Result<i64> {
        let plus = self.eat(b'+');
        let minus = self.eat(b'-');
        if !plus && !minus {
            return Ok(0);
        }
        let v = self.int()? as i64;
        Ok(if minus { v.wrapping_neg() } else { v })
    }
}
