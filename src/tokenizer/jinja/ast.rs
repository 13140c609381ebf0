//! What a template says, as a tree.

use super::value::Value;

#[derive(Debug)]
pub(super) enum Expr {
    Const(Value),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Arguments),
    Filter(Box<Expr>, String, Arguments),
    Test(Box<Expr>, String, Arguments),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// `then if condition else otherwise`
    If {
        condition: Box<Expr>,
        then: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

/// `(a, b=c, *list, **dict)`
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
    pub(super) list: Option<Box<Expr>>,
    pub(super) dict: Option<Box<Expr>>,
}

/// A statement and its line.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Statement,
}

#[derive(Debug)]
pub(super) enum Statement {
    Text(String),
    Output(Vec<Expr>),
    /// Conditions with what they guard, and what stands under `else`.
    If(Vec<(Expr, Vec<Node>)>, Vec<Node>),
    For(For),
    Set(Target, Expr),
    /// `{% set name %}body{% endset %}`: the expression filters the body, which it finds under [`BODY`].
    SetBlock(Target, Expr, Vec<Node>),
    /// `{% filter name %}body{% endfilter %}`: as above, and put out.
    Filter(Expr, Vec<Node>),
    Macro(Macro),
    /// `{% call(parameters) called() %}body{% endcall %}`: the body is a macro named `caller`.
    Call(Expr, Arguments, Macro),
    With(Vec<(Target, Expr)>, Vec<Node>),
    /// What stands in a scope of its own.
    Block(Vec<Node>),
    Break,
    Continue,
    /// A tag that needs other files, and its name.
    Unavailable(String),
}

/// The variable that holds the text which a filter block filters: no template can name it.
pub(super) const BODY: &str = "";

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) items: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) parameters: Vec<(String, Option<Expr>)>,
    pub(super) body: Vec<Node>,
    /// Whether it reads `varargs`, so that arguments beyond its parameters go there.
    pub(super) takes_more_positional: bool,
    /// The same with names, in `kwargs`.
    pub(super) takes_more_named: bool,
}

/// What can be assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(String),
    /// An attribute of a namespace.
    Attribute(String, String),
    Tuple(Vec<Target>),
}
