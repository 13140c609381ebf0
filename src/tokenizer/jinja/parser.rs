//! Tokens to statements. Expressions are in `expression.rs`.

use super::{
    Fault, Out,
    ast::{BODY, Expr, For, Macro, Node, Statement, Target},
    lexer::{Kind, Token},
    value::Value,
};

/// How deep statements and expressions may nest: far more than real templates do, and little of the stack.
const MOST_NESTED: usize = 100;
/// How many parts one tag's expressions may have, so that no chain of operators makes a deep tree.
const MOST_PARTS: usize = 4_000;

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    parts: usize,
    loops: usize,
    /// Whether the macro being read reads `varargs`, and `kwargs`.
    more: (bool, bool),
}

/// The statements of a template.
pub(super) fn parse(tokens: Vec<Token>) -> Out<Vec<Node>> {
    let mut parser = Parser { tokens, at: 0, depth: 0, parts: 0, loops: 0, more: (false, false) };
    Ok(parser.body(&[])?.0)
}

impl Parser {
    pub(super) fn peek(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    pub(super) fn peek_second(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    pub(super) fn line(&self) -> usize {
        self.tokens[self.at].line
    }

    pub(super) fn next(&mut self) -> Kind {
        let last = self.tokens.len() - 1;
        let kind = if self.at == last {
            Kind::End
        } else {
            std::mem::replace(&mut self.tokens[self.at].kind, Kind::End)
        };
        self.at = (self.at + 1).min(last);
        kind
    }

    pub(super) fn fault<T>(&self, expected: &str) -> Out<T> {
        let got = match self.peek() {
            Kind::Name(name) => format!("`{name}`"),
            Kind::Operator(operator) => format!("`{operator}`"),
            Kind::Text(text) => format!("the string {text:?}"),
            Kind::Int(_) | Kind::Float(_) => "a number".into(),
            Kind::BlockBegin | Kind::BlockEnd | Kind::OutputBegin | Kind::OutputEnd => {
                "the end of the tag".into()
            }
            Kind::Data(_) => "text".into(),
            Kind::End => "the end of the template".into(),
        };
        Err(Fault::at(self.line(), format!("syntax error: expected {expected}, got {got}")))
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Kind::Operator(next) if *next == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Kind::Name(next) if next == name)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let is = self.is_operator(operator);
        if is {
            self.next();
        }
        is
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        if is {
            self.next();
        }
        is
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Out<()> {
        if self.skip_operator(operator) { Ok(()) } else { self.fault(&format!("`{operator}`")) }
    }

    /// Items between commas up to `close`, before which there may be one more comma.
    pub(super) fn separated(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Out<()>) -> Out<()> {
        let mut first = true;
        while !self.skip_operator(close) {
            if !std::mem::take(&mut first) {
                self.expect_operator(",")?;
                if self.skip_operator(close) {
                    break;
                }
            }
            item(self)?;
        }
        Ok(())
    }

    pub(super) fn name(&mut self) -> Out<String> {
        match self.peek() {
            Kind::Name(_) => match self.next() {
                Kind::Name(name) => Ok(name),
                _ => unreachable!("it was looked at"),
            },
            _ => self.fault("a name"),
        }
    }

    /// Counts one more part of the tag's expressions.
    pub(super) fn part(&mut self) -> Out<()> {
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return Err(Fault::limit(self.line(), format!("more than {MOST_PARTS} parts in one tag")));
        }
        Ok(())
    }

    /// One level deeper.
    pub(super) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Out<T>) -> Out<T> {
        self.depth += 1;
        if self.depth > MOST_NESTED {
            return Err(Fault::limit(self.line(), format!("more than {MOST_NESTED} levels of nesting")));
        }
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    fn block_end(&mut self) -> Out<()> {
        match self.peek() {
            Kind::BlockEnd => {
                self.next();
                Ok(())
            }
            _ => self.fault("the end of the tag"),
        }
    }

    /// Statements up to a tag of one of these names, which is given too; its other parts are left.
    fn body(&mut self, ends: &[&str]) -> Out<(Vec<Node>, String)> {
        let mut nodes = Vec::new();
        loop {
            let line = self.line();
            self.parts = 0;
            let kind = match self.next() {
                Kind::Data(text) => Statement::Text(text),
                Kind::OutputBegin => {
                    let value = self.tuple(true)?;
                    if !matches!(self.next(), Kind::OutputEnd) {
                        self.at -= 1;
                        return Err(Fault::at(
                            line,
                            "syntax error: expected the end of the output after one expression",
                        ));
                    }
                    Statement::Output(vec![value])
                }
                Kind::BlockBegin => {
                    let name = self.name()?;
                    if ends.contains(&name.as_str()) {
                        return Ok((nodes, name));
                    }
                    let statement = self.nested(|parser| parser.statement(&name))?;
                    self.block_end()?;
                    statement
                }
                _ if ends.is_empty() => return Ok((nodes, String::new())),
                _ => return self.fault(&format!("the tag {}", ends.join(" or "))),
            };
            nodes.push(Node { line, kind });
        }
    }

    /// The body of a tag whose opening has been read up to its end.
    fn enclosed(&mut self, end: &str) -> Out<Vec<Node>> {
        self.block_end()?;
        Ok(self.body(&[end])?.0)
    }

    fn statement(&mut self, name: &str) -> Out<Statement> {
        Ok(match name {
            "if" => self.conditional()?,
            "for" => self.for_loop()?,
            "set" => self.assignment()?,
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                Statement::Macro(self.macro_of(name, parameters, "endmacro")?)
            }
            "call" => {
                let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
                let Expr::Call(called, arguments) = self.expression()? else { return self.fault("a call") };
                Statement::Call(*called, arguments, self.macro_of("caller".into(), parameters, "endcall")?)
            }
            // transformers' mark of what the assistant said, for training: its body is put out as it is.
            "generation" => Statement::Block(self.outside_loops(|parser| parser.enclosed("endgeneration"))?),
            "block" => {
                let name = self.name()?;
                let _ = self.skip_name("scoped") || self.skip_name("required");
                let body = self.outside_loops(|parser| parser.enclosed("endblock"))?;
                let _ = self.skip_name(&name);
                Statement::Block(body)
            }
            "filter" => {
                let filter = self.filters(Expr::Name(BODY.into()), true)?;
                Statement::Filter(filter, self.enclosed("endfilter")?)
            }
            "with" => {
                let mut variables = Vec::new();
                while *self.peek() != Kind::BlockEnd {
                    if !variables.is_empty() {
                        self.expect_operator(",")?;
                    }
                    let target = self.target(false)?;
                    self.expect_operator("=")?;
                    variables.push((target, self.expression()?));
                }
                Statement::With(variables, self.enclosed("endwith")?)
            }
            "print" => {
                let mut values = vec![self.expression()?];
                while self.skip_operator(",") {
                    values.push(self.expression()?);
                }
                Statement::Output(values)
            }
            "break" | "continue" if self.loops == 0 => {
                return Err(Fault::at(self.line(), format!("syntax error: `{name}` outside a loop")));
            }
            "break" => Statement::Break,
            "continue" => Statement::Continue,
            "include" | "import" | "from" | "extends" => {
                while *self.peek() != Kind::BlockEnd {
                    self.next();
                }
                Statement::Unavailable(name.into())
            }
            _ => return Err(Fault::at(self.line(), format!("syntax error: unknown tag `{name}`"))),
        })
    }

    fn macro_of(&mut self, name: String, parameters: Vec<(String, Option<Expr>)>, end: &str) -> Out<Macro> {
        let around = std::mem::take(&mut self.more);
        let body = self.outside_loops(|parser| parser.enclosed(end))?;
        let (takes_more_positional, takes_more_named) = std::mem::replace(&mut self.more, around);
        Ok(Macro { name, parameters, body, takes_more_positional, takes_more_named })
    }

    /// Notes what a macro's body reads.
    pub(super) fn reads(&mut self, name: &str) {
        self.more.0 |= name == "varargs";
        self.more.1 |= name == "kwargs";
    }

    /// The body of a macro or the like, which cannot end a loop around it.
    fn outside_loops<T>(&mut self, parse: impl FnOnce(&mut Self) -> Out<T>) -> Out<T> {
        let loops = std::mem::take(&mut self.loops);
        let parsed = parse(self)?;
        self.loops = loops;
        Ok(parsed)
    }

    fn conditional(&mut self) -> Out<Statement> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false)?;
            self.block_end()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end.as_str() {
                "elif" => {}
                "else" => {
                    let otherwise = self.enclosed("endif")?;
                    return Ok(Statement::If(branches, otherwise));
                }
                _ => return Ok(Statement::If(branches, Vec::new())),
            }
        }
    }

    fn for_loop(&mut self) -> Out<Statement> {
        let target = self.target(true)?;
        if !self.skip_name("in") {
            return self.fault("`in`");
        }
        let items = self.tuple(false)?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        self.loops += 1;
        let (body, end) = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let otherwise = if end == "else" { self.enclosed("endfor")? } else { Vec::new() };
        Ok(Statement::For(For { target, items, condition, recursive, body, otherwise }))
    }

    fn assignment(&mut self) -> Out<Statement> {
        let target = if let (Kind::Name(_), Kind::Operator(".")) = (self.peek(), self.peek_second()) {
            let name = self.name()?;
            self.next();
            Target::Attribute(name, self.name()?)
        } else {
            self.target(true)?
        };
        if self.skip_operator("=") {
            return Ok(Statement::Set(target, self.tuple(true)?));
        }
        let filter = self.filters(Expr::Name(BODY.into()), false)?;
        Ok(Statement::SetBlock(target, filter, self.enclosed("endset")?))
    }

    /// A name, or where `many`, names between commas.
    fn target(&mut self, many: bool) -> Out<Target> {
        let mut targets = Vec::new();
        loop {
            if self.is_operator("(") {
                self.next();
                let inner = self.nested(|parser| parser.target(true))?;
                self.expect_operator(")")?;
                targets.push(inner);
            } else {
                let line = self.line();
                let name = self.name()?;
                if Value::constant(&name).is_some() {
                    return Err(Fault::at(line, format!("syntax error: cannot assign to `{name}`")));
                }
                targets.push(Target::Name(name));
            }
            if !many || !self.skip_operator(",") {
                break;
            }
            if !matches!(self.peek(), Kind::Name(_) | Kind::Operator("(")) || self.is_name("in") {
                return Ok(Target::Tuple(targets));
            }
        }
        Ok(if targets.len() == 1 { targets.remove(0) } else { Target::Tuple(targets) })
    }

    /// `(a, b=1)` of a macro.
    fn parameters(&mut self) -> Out<Vec<(String, Option<Expr>)>> {
        self.expect_operator("(")?;
        let mut parameters = Vec::new();
        self.separated(")", |parser| {
            let name = parser.name()?;
            let default = if parser.skip_operator("=") { Some(parser.expression()?) } else { None };
            parameters.push((name, default));
            Ok(())
        })?;
        Ok(parameters)
    }
}
