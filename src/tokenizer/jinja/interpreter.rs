//! Runs a template's statements.

use std::{collections::HashMap, rc::Rc};

use super::{
    Conversation, Fault, Out,
    ast::{BODY, Expr, For, Macro, Node, Statement, Target},
    budget::Budget,
    methods::Arguments,
    value::{Dict, Value},
};

/// What a rendering has made so far. Values name namespaces, macros and loops by number, so none can hold itself.
pub(super) struct Machine<'t> {
    pub(super) budget: Budget,
    pub(super) namespaces: Vec<Dict>,
    macros: Vec<(&'t Macro, usize)>,
    pub(super) loops: Vec<Loop<'t>>,
    scopes: Vec<Scope>,
    /// The number of the innermost scope.
    scope: usize,
    /// What has been put out: the innermost text that is being gathered last.
    output: Vec<String>,
}

#[derive(Default)]
struct Scope {
    variables: HashMap<String, Value>,
    parent: Option<usize>,
}

pub(super) struct Loop<'t> {
    pub(super) items: Rc<Vec<Value>>,
    /// Of the present item, from 0.
    pub(super) index: usize,
    /// How many loops it is in that called themselves.
    pub(super) depth: usize,
    pub(super) last_changed: Option<Value>,
    node: &'t For,
    /// The scope around the loop; `None` once it has ended.
    scope: Option<usize>,
}

#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// What the statements put out for this conversation.
pub(super) fn run(nodes: &[Node], conversation: &Conversation) -> Out<String> {
    let mut machine = Machine {
        budget: Budget::new(),
        namespaces: Vec::new(),
        macros: Vec::new(),
        loops: Vec::new(),
        scopes: vec![Scope::default(), Scope { variables: HashMap::new(), parent: Some(0) }],
        scope: 1,
        output: vec![String::new()],
    };
    for (name, value) in machine.variables(conversation)? {
        machine.scopes[0].variables.insert(name.to_string(), value);
    }
    machine.body(nodes)?;
    Ok(machine.output.remove(0))
}

impl<'t> Machine<'t> {
    fn variables<'c>(&self, conversation: &'c Conversation) -> Out<Vec<(&'c str, Value)>> {
        let messages = conversation.messages.iter().map(|(role, content)| {
            let mut message = Dict::default();
            message.insert("role".into(), Value::from(*role), &self.budget)?;
            message.insert("content".into(), Value::from(*content), &self.budget)?;
            Ok(Value::Dict(message.into()))
        });
        let messages = Value::list(messages.collect::<Out<_>>()?, &self.budget)?;
        let mut variables = vec![
            ("messages", messages),
            ("add_generation_prompt", conversation.add_generation_prompt.into()),
            // Given but none, as Hugging Face does: templates ask either way.
            ("tools", Value::None),
            ("documents", Value::None),
        ];
        let functions = ["range", "dict", "namespace", "raise_exception", "strftime_now"];
        variables.extend(functions.map(|name| (name, Value::Function(name))));
        variables
            .extend(conversation.tokens.iter().map(|(name, token)| (name.as_str(), token.as_str().into())));
        Ok(variables)
    }

    pub(super) fn variable(&self, name: &str) -> Out<Value> {
        let mut scope = Some(self.scope);
        while let Some(number) = scope {
            self.budget.spend(4)?;
            if let Some(value) = self.scopes[number].variables.get(name) {
                return Ok(value.clone());
            }
            scope = self.scopes[number].parent;
        }
        Ok(Value::Undefined(format!("'{name}' is undefined").into()))
    }

    fn set(&mut self, name: &str, value: Value) -> Out<()> {
        self.budget.spend(128 + name.len())?;
        self.scopes[self.scope].variables.insert(name.to_string(), value);
        Ok(())
    }

    /// Runs in a new scope inside `parent`.
    fn scoped<T>(&mut self, parent: usize, run: impl FnOnce(&mut Self) -> Out<T>) -> Out<T> {
        self.budget.spend(128)?;
        let (around, scopes, macros) = (self.scope, self.scopes.len(), self.macros.len());
        self.scopes.push(Scope { variables: HashMap::new(), parent: Some(parent) });
        self.scope = scopes;
        let result = run(self)?;
        self.scope = around;
        // A macro from in there may still need its scope.
        if macros == self.macros.len() {
            self.scopes.truncate(scopes);
        }
        Ok(result)
    }

    /// What `run` puts out.
    fn captured(&mut self, run: impl FnOnce(&mut Self) -> Out<Flow>) -> Out<Value> {
        self.output.push(String::new());
        run(self)?;
        Ok(self.output.pop().expect("it was pushed above").into())
    }

    fn put(&mut self, text: &str) -> Out<()> {
        self.budget.spend(text.len())?;
        self.output.last_mut().expect("the first one stays").push_str(text);
        Ok(())
    }

    fn body(&mut self, nodes: &'t [Node]) -> Out<Flow> {
        self.budget.enter()?;
        for node in nodes {
            self.budget.spend(16)?;
            match self.statement(&node.kind).map_err(|fault| fault.on_line(node.line))? {
                Flow::Next => {}
                ended => {
                    self.budget.leave();
                    return Ok(ended);
                }
            }
        }
        self.budget.leave();
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &'t Statement) -> Out<Flow> {
        match statement {
            Statement::Text(text) => self.put(text)?,
            Statement::Output(values) => {
                for value in values {
                    let value = self.evaluate(value)?;
                    let text = self.printed(&value)?;
                    self.put(&text)?;
                }
            }
            Statement::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.evaluate(condition)?.is_true() {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            Statement::For(node) => {
                let items = self.evaluate(&node.items)?.values(&self.budget)?;
                self.for_loop(node, items, self.scope, 0)?;
            }
            Statement::Set(target, value) => {
                let value = self.evaluate(value)?;
                self.assign(target, value)?;
            }
            Statement::SetBlock(target, filter, body) => {
                let value = self.filtered(filter, body)?;
                self.assign(target, value)?;
            }
            Statement::Filter(filter, body) => {
                let value = self.filtered(filter, body)?;
                let text = self.printed(&value)?;
                self.put(&text)?;
            }
            Statement::Macro(node) => {
                let value = self.new_macro(node)?;
                self.set(&node.name, value)?;
            }
            Statement::Call(called, arguments, caller) => {
                let called = self.evaluate(called)?;
                let mut arguments = self.arguments(arguments)?;
                arguments.named.push(("caller".to_string(), self.new_macro(caller)?));
                let value = self.call(&called, arguments)?;
                let text = self.printed(&value)?;
                self.put(&text)?;
            }
            Statement::With(variables, body) => {
                self.scoped(self.scope, |machine| {
                    let mut values = Vec::new();
                    for (target, value) in variables {
                        values.push((target, machine.evaluate(value)?));
                    }
                    for (target, value) in values {
                        machine.assign(target, value)?;
                    }
                    machine.body(body)
                })?;
            }
            Statement::Block(body) => {
                self.scoped(self.scope, |machine| machine.body(body))?;
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            Statement::Unavailable(tag) => {
                return Err(Fault::new(format!(
                    "`{tag}` needs other templates, and a chat template has none"
                )));
            }
        }
        Ok(Flow::Next)
    }

    fn filtered(&mut self, filter: &'t Expr, body: &'t [Node]) -> Out<Value> {
        let text = self.captured(|machine| machine.scoped(machine.scope, |machine| machine.body(body)))?;
        self.scoped(self.scope, |machine| {
            machine.set(BODY, text)?;
            machine.evaluate(filter)
        })
    }

    fn assign(&mut self, target: &'t Target, value: Value) -> Out<()> {
        match target {
            Target::Name(name) => self.set(name, value),
            Target::Attribute(name, attribute) => match self.variable(name)? {
                _ if attribute.starts_with('_') => {
                    Err(Fault::new(format!("a namespace cannot have the attribute {attribute}")))
                }
                Value::Namespace(number) => {
                    let attribute = Value::from(attribute.as_str());
                    self.namespaces[number].insert(attribute, value, &self.budget)
                }
                _ => Err(Fault::new("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => {
                let values = value.defined()?.values(&self.budget)?;
                if values.len() != targets.len() {
                    let (expected, got) = (targets.len(), values.len());
                    return Err(Fault::new(format!("cannot unpack {got} values into {expected} names")));
                }
                targets.iter().zip(values).try_for_each(|(target, value)| self.assign(target, value))
            }
        }
    }

    fn for_loop(&mut self, node: &'t For, items: Vec<Value>, scope: usize, depth: usize) -> Out<()> {
        let items = match &node.condition {
            None => items,
            Some(condition) => {
                let mut kept = Vec::new();
                for item in items {
                    let keep = self.scoped(scope, |machine| {
                        machine.assign(&node.target, item.clone())?;
                        Ok(machine.evaluate(condition)?.is_true())
                    })?;
                    if keep {
                        kept.push(item);
                    }
                }
                kept
            }
        };
        if items.is_empty() {
            self.scoped(scope, |machine| machine.body(&node.otherwise))?;
            return Ok(());
        }
        let items = Rc::new(items);
        let number = self.loops.len();
        self.budget.spend(128)?;
        self.loops.push(Loop {
            items: items.clone(),
            index: 0,
            depth,
            last_changed: None,
            node,
            scope: Some(scope),
        });
        for (index, item) in items.iter().enumerate() {
            self.loops[number].index = index;
            let flow = self.scoped(scope, |machine| {
                machine.set("loop", Value::Loop(number))?;
                machine.assign(&node.target, item.clone())?;
                machine.body(&node.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        self.loops[number].scope = None;
        Ok(())
    }

    /// What a loop gives that is called with other items.
    pub(super) fn call_loop(&mut self, number: usize, arguments: Arguments) -> Out<Value> {
        let [items] = arguments.bind("loop", ["iterable"])?;
        let (node, scope, depth) = match &self.loops[number] {
            Loop { node, scope: Some(scope), depth, .. } if node.recursive => (*node, *scope, *depth),
            _ => return Err(Fault::new("the loop must have the `recursive` marker to be called")),
        };
        let items = items.unwrap_or(Value::None).values(&self.budget)?;
        self.captured(|machine| {
            machine.for_loop(node, items, scope, depth + 1)?;
            Ok(Flow::Next)
        })
    }

    fn new_macro(&mut self, node: &'t Macro) -> Out<Value> {
        self.budget.spend(64)?;
        self.macros.push((node, self.scope));
        Ok(Value::Macro(self.macros.len() - 1))
    }

    pub(super) fn call_macro(&mut self, number: usize, mut arguments: Arguments) -> Out<Value> {
        let (node, scope) = self.macros[number];
        let caller = arguments.take("caller");
        let mut positional = std::mem::take(&mut arguments.positional).into_iter();
        self.captured(|machine| {
            machine.scoped(scope, |machine| {
                for (name, default) in &node.parameters {
                    let value = match (positional.next(), arguments.take(name), default) {
                        (Some(_), Some(_), _) => {
                            return Err(Fault::new(format!("macro '{}' got '{name}' twice", node.name)));
                        }
                        (Some(value), ..) | (None, Some(value), _) => value,
                        (None, None, Some(default)) => machine.evaluate(default)?,
                        (None, None, None) => {
                            Value::Undefined(format!("parameter '{name}' was not provided").into())
                        }
                    };
                    machine.set(name, value)?;
                }
                if let Some(caller) = caller {
                    machine.set("caller", caller)?;
                }
                if node.takes_more_positional {
                    let rest = Value::tuple(positional.collect(), &machine.budget)?;
                    machine.set("varargs", rest)?;
                } else if positional.next().is_some() {
                    let most = node.parameters.len();
                    return Err(Fault::new(format!(
                        "macro '{}' takes not more than {most} argument(s)",
                        node.name
                    )));
                }
                if node.takes_more_named {
                    let rest = Value::dict(std::mem::take(&mut arguments.named), &machine.budget)?;
                    machine.set("kwargs", rest)?;
                }
                match arguments.named.first() {
                    Some((name, _)) => {
                        Err(Fault::new(format!("macro '{}' takes no keyword argument '{name}'", node.name)))
                    }
                    None => machine.body(&node.body),
                }
            })
        })
    }
}
