//! Tokens to expressions, with Jinja's precedence.

use super::{
    Fault, Out,
    ast::{Arguments, Comparison, Expr, Operator},
    lexer::Kind,
    parser::Parser,
    value::Value,
};

impl Parser {
    /// Expressions between commas: one is itself, more are a tuple. With `conditional`, each may be `a if b else c`.
    pub(super) fn tuple(&mut self, conditional: bool) -> Out<Expr> {
        let mut items = Vec::new();
        loop {
            items.push(if conditional { self.expression()? } else { self.nested(Self::or)? });
            if !self.skip_operator(",") {
                return Ok(if items.len() == 1 { items.remove(0) } else { Expr::Tuple(items) });
            }
            if self.ends_tuple() {
                return Ok(Expr::Tuple(items));
            }
        }
    }

    fn ends_tuple(&self) -> bool {
        matches!(self.peek(), Kind::OutputEnd | Kind::BlockEnd | Kind::Operator(")"))
            || self.is_name("recursive")
    }

    pub(super) fn expression(&mut self) -> Out<Expr> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            while parser.skip_name("if") {
                parser.part()?;
                let condition = Box::new(parser.or()?);
                let otherwise = match parser.skip_name("else") {
                    true => Some(Box::new(parser.expression()?)),
                    false => None,
                };
                value = Expr::If { condition, then: Box::new(value), otherwise };
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Out<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Out<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Out<Expr> {
        if self.skip_name("not") {
            self.part()?;
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        let left = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.peek() {
                Kind::Operator("==") => Comparison::Equal,
                Kind::Operator("!=") => Comparison::NotEqual,
                Kind::Operator("<") => Comparison::Less,
                Kind::Operator("<=") => Comparison::LessEqual,
                Kind::Operator(">") => Comparison::Greater,
                Kind::Operator(">=") => Comparison::GreaterEqual,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name)
                    if name == "not"
                        && matches!(self.peek_second(), Kind::Name(second) if second == "in") =>
                {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            others.push((comparison, self.sum()?));
        }
        Ok(if others.is_empty() { left } else { Expr::Compare(Box::new(left), others) })
    }

    fn sum(&mut self) -> Out<Expr> {
        self.binary(Self::concat, &[("+", Operator::Add), ("-", Operator::Subtract)])
    }

    /// Operands that `operand` parses, with these operators between, from the left.
    fn binary(
        &mut self,
        operand: fn(&mut Self) -> Out<Expr>,
        operators: &[(&'static str, Operator)],
    ) -> Out<Expr> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().find(|(sign, _)| self.skip_operator(sign)) {
            left = Expr::Binary(*operator, Box::new(left), Box::new(operand(self)?));
        }
        Ok(left)
    }

    fn concat(&mut self) -> Out<Expr> {
        let mut parts = vec![self.product()?];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Concat(parts) })
    }

    fn product(&mut self) -> Out<Expr> {
        const SIGNS: [(&str, Operator); 4] = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        self.binary(Self::power, &SIGNS)
    }

    fn power(&mut self) -> Out<Expr> {
        self.binary(|parser| parser.unary(true), &[("**", Operator::Power)])
    }

    fn unary(&mut self, with_filters: bool) -> Out<Expr> {
        self.part()?;
        let value = if self.skip_operator("-") {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip_operator("+") {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filters { self.filters(value, false) } else { Ok(value) }
    }

    fn primary(&mut self) -> Out<Expr> {
        Ok(match self.peek() {
            Kind::Name(_) => {
                let name = self.name()?;
                self.reads(&name);
                Value::constant(&name).map_or(Expr::Name(name), Expr::Const)
            }
            Kind::Int(value) => {
                let value = Value::Int(*value);
                self.next();
                Expr::Const(value)
            }
            Kind::Float(value) => {
                let value = Value::Float(*value);
                self.next();
                Expr::Const(value)
            }
            Kind::Text(_) => {
                let mut text = String::new();
                while let Kind::Text(_) = self.peek() {
                    if let Kind::Text(part) = self.next() {
                        text.push_str(&part);
                    }
                }
                Expr::Const(Value::from(text))
            }
            Kind::Operator("(") => {
                self.next();
                let value = if self.is_operator(")") { Expr::Tuple(Vec::new()) } else { self.tuple(true)? };
                self.expect_operator(")")?;
                value
            }
            Kind::Operator("[") => {
                self.next();
                let mut items = Vec::new();
                self.separated("]", |parser| {
                    items.push(parser.expression()?);
                    Ok(())
                })?;
                Expr::List(items)
            }
            Kind::Operator("{") => {
                self.next();
                let mut entries = Vec::new();
                self.separated("}", |parser| {
                    let key = parser.expression()?;
                    parser.expect_operator(":")?;
                    entries.push((key, parser.expression()?));
                    Ok(())
                })?;
                Expr::Dict(entries)
            }
            _ => return self.fault("a value"),
        })
    }

    fn postfix(&mut self, mut value: Expr) -> Out<Expr> {
        loop {
            self.part()?;
            value = match self.peek() {
                Kind::Operator(".") => {
                    self.next();
                    match self.peek() {
                        Kind::Int(key) => {
                            let key = Box::new(Expr::Const(Value::Int(*key)));
                            self.next();
                            Expr::Item(Box::new(value), key)
                        }
                        _ => Expr::Attribute(Box::new(value), self.name()?),
                    }
                }
                Kind::Operator("[") => {
                    self.next();
                    let value = self.subscript(value)?;
                    self.expect_operator("]")?;
                    value
                }
                Kind::Operator("(") => Expr::Call(Box::new(value), self.arguments()?),
                _ => return Ok(value),
            };
        }
    }

    /// A key, or a slice `start:stop:step` with parts left out.
    fn subscript(&mut self, value: Expr) -> Out<Expr> {
        let mut parts: [Option<Box<Expr>>; 3] = [None, None, None];
        let mut part = 0;
        loop {
            if !matches!(self.peek(), Kind::Operator(":" | "]")) {
                parts[part] = Some(Box::new(if part == 0 { self.tuple(true)? } else { self.expression()? }));
            }
            if part == 2 || !self.skip_operator(":") {
                break;
            }
            part += 1;
        }
        match parts {
            [None, ..] if part == 0 => self.fault("a key"),
            [Some(key), ..] if part == 0 => Ok(Expr::Item(Box::new(value), key)),
            parts => Ok(Expr::Slice(Box::new(value), parts)),
        }
    }

    /// Filters, tests and calls of what they give. With `first`, the first filter has no `|` before it.
    pub(super) fn filters(&mut self, mut value: Expr, mut first: bool) -> Out<Expr> {
        loop {
            self.part()?;
            value = if std::mem::take(&mut first) || self.skip_operator("|") {
                let mut name = self.name()?;
                while self.skip_operator(".") {
                    name = format!("{name}.{}", self.name()?);
                }
                let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
                Expr::Filter(Box::new(value), name, arguments)
            } else if self.skip_name("is") {
                self.test(value)?
            } else if self.is_operator("(") {
                Expr::Call(Box::new(value), self.arguments()?)
            } else {
                return Ok(value);
            };
        }
    }

    fn test(&mut self, value: Expr) -> Out<Expr> {
        let negated = self.skip_name("not");
        let name = self.name()?;
        let mut arguments = Arguments::default();
        let ends = ["else", "or", "and", "is"].iter().any(|name| self.is_name(name));
        if self.is_operator("(") {
            arguments = self.arguments()?;
        } else if !ends
            && matches!(
                self.peek(),
                Kind::Name(_) | Kind::Text(_) | Kind::Int(_) | Kind::Float(_) | Kind::Operator("[" | "{")
            )
            && !self.is_name("if")
            && !self.is_name("in")
            && !self.is_name("not")
        {
            let argument = self.nested(Self::primary)?;
            arguments.positional.push(self.postfix(argument)?);
        }
        let test = Expr::Test(Box::new(value), name, arguments);
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    fn arguments(&mut self) -> Out<Arguments> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        self.separated(")", |parser| {
            if parser.skip_operator("*") {
                arguments.list = Some(Box::new(parser.expression()?));
            } else if parser.skip_operator("**") {
                arguments.dict = Some(Box::new(parser.expression()?));
            } else if let (Kind::Name(_), Kind::Operator("=")) = (parser.peek(), parser.peek_second()) {
                let name = parser.name()?;
                parser.next();
                arguments.named.push((name, parser.expression()?));
            } else if arguments.named.is_empty() && arguments.dict.is_none() {
                arguments.positional.push(parser.expression()?);
            } else {
                return Err(Fault::at(
                    parser.line(),
                    "syntax error: an argument without a name after one with a name",
                ));
            }
            Ok(())
        })?;
        Ok(arguments)
    }
}
