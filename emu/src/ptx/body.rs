//! Bodies of kernels: declarations, labels, source positions, instructions and their operands.

use std::collections::HashMap;

use super::{
    ast::{Function, Instr, Loc, Operand, RegId, Var},
    lexer::{CARVE, Number, Token},
    parser::Parser,
    scope::Scopes,
    types::Ty,
};
use crate::error::{Error, Result};

impl Parser {
    /// From `{` to the matching `}`.
    pub(super) fn body(&mut self, f: &mut Function) -> Result<()> {
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
                Some(Token::Word(w)) if w == ".reg" || w.starts_with(".reg.") => {
                    self.at += 1;
                    let ty = match w.strip_prefix(".reg.") {
                        // Written without a space, as the toolkit's headers do.
                        Some(ty) => format!(".{ty}"),
                        None => self.word("a register's type")?,
                    };
                    self.registers(f, &mut scopes, &ty)?;
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
    fn registers(&mut self, f: &mut Function, scopes: &mut Scopes, ty: &str) -> Result<()> {
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
