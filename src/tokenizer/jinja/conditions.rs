//! Jinja's tests: `value is name`.

use super::{
    Fault, Out,
    ast::{Comparison, Operator},
    interpreter::Machine,
    methods::Arguments,
    value::Value,
};

impl Machine<'_> {
    pub(super) fn test(&mut self, name: &str, value: &Value, arguments: Arguments) -> Out<bool> {
        let comparison = match name {
            "eq" | "equalto" => Some(Comparison::Equal),
            "ne" => Some(Comparison::NotEqual),
            "lt" | "lessthan" => Some(Comparison::Less),
            "le" => Some(Comparison::LessEqual),
            "gt" | "greaterthan" => Some(Comparison::Greater),
            "ge" => Some(Comparison::GreaterEqual),
            "in" => Some(Comparison::In),
            _ => None,
        };
        let [other] = arguments.bind(name, ["other"])?;
        let other = other.ok_or_else(|| Fault::new(format!("the test `{name}` needs a value")));
        if let Some(comparison) = comparison {
            return self.compare(comparison, value, &other?);
        }
        Ok(match name {
            "defined" => !matches!(value, Value::Undefined(_)),
            "undefined" => matches!(value, Value::Undefined(_)),
            "none" => matches!(value, Value::None),
            "boolean" => matches!(value, Value::Bool(_)),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => matches!(value, Value::Text(_)),
            "mapping" => matches!(value, Value::Dict(_)),
            "sequence" | "iterable" => matches!(
                value,
                Value::Undefined(_) | Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_)
            ),
            "callable" => {
                matches!(value, Value::Function(_) | Value::Macro(_) | Value::Method(_) | Value::Loop(_))
            }
            "escaped" => false,
            "sameas" => match (value, &other?) {
                (Value::Bool(a), Value::Bool(b)) => a == b,
                (Value::Bool(_), _) | (_, Value::Bool(_)) => false,
                (a, b) => a.kind() == b.kind() && a.equals(b, &self.budget)?,
            },
            "odd" | "even" | "divisibleby" => {
                let divisor = if name == "divisibleby" { other? } else { Value::Int(2) };
                let rest = self.binary(Operator::Remainder, value, &divisor)?;
                rest.equals(&Value::Int((name == "odd").into()), &self.budget)?
            }
            "lower" | "upper" => {
                let text = self.printed(value)?;
                let is_case = if name == "lower" { char::is_lowercase } else { char::is_uppercase };
                let is_other = if name == "lower" { char::is_uppercase } else { char::is_lowercase };
                text.chars().any(is_case) && !text.chars().any(is_other)
            }
            _ => return Err(Fault::new(format!("no test named '{name}'"))),
        })
    }
}
