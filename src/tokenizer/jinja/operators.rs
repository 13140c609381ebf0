//! What operators do with values, and Python's order.

use std::cmp::Ordering;

use super::{
    Fault, Out,
    ast::{Comparison, Operator},
    interpreter::Machine,
    value::Value,
};

impl Machine<'_> {
    pub(super) fn compare(&self, comparison: Comparison, left: &Value, right: &Value) -> Out<bool> {
        let order = |sign: &str| left.order(right, sign, &self.budget);
        Ok(match comparison {
            Comparison::Equal => left.equals(right, &self.budget)?,
            Comparison::NotEqual => !left.equals(right, &self.budget)?,
            Comparison::Less => order("<")? == Some(Ordering::Less),
            Comparison::LessEqual => matches!(order("<=")?, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => order(">")? == Some(Ordering::Greater),
            Comparison::GreaterEqual => matches!(order(">=")?, Some(Ordering::Greater | Ordering::Equal)),
            Comparison::In => self.contains(right, left)?,
            Comparison::NotIn => !self.contains(right, left)?,
        })
    }

    pub(super) fn contains(&self, whole: &Value, part: &Value) -> Out<bool> {
        match whole {
            Value::Undefined(_) => Ok(false),
            Value::Text(text) => match part {
                Value::Text(part) => {
                    self.budget.spend(text.len() / 4)?;
                    Ok(text.contains(&**part))
                }
                _ => {
                    let kind = part.kind();
                    Err(Fault::new(format!("'in <string>' requires string as left operand, not {kind}")))
                }
            },
            Value::Dict(dict) => Ok(dict.get(&part.key(&self.budget)?).is_some()),
            Value::List(items) | Value::Tuple(items) => {
                for item in &items.values {
                    if item.equals(part, &self.budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Err(Fault::new(format!("argument of type '{}' is not iterable", whole.kind()))),
        }
    }

    pub(super) fn binary(&self, operator: Operator, left: &Value, right: &Value) -> Out<Value> {
        let (left, right) = (left.defined()?, right.defined()?);
        match (operator, left, right) {
            (Operator::Add, Value::Text(a), Value::Text(b)) => {
                self.budget.spend(a.len() + b.len())?;
                Ok([&**a, &**b].concat().into())
            }
            (Operator::Add, Value::List(a), Value::List(b)) => {
                self.budget.spend_product(a.values.len() + b.values.len(), 48)?;
                Value::list([&a.values[..], &b.values].concat(), &self.budget)
            }
            (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
                self.budget.spend_product(a.values.len() + b.values.len(), 48)?;
                Value::tuple([&a.values[..], &b.values].concat(), &self.budget)
            }
            (Operator::Multiply, repeated @ (Value::Text(_) | Value::List(_) | Value::Tuple(_)), times)
            | (Operator::Multiply, times, repeated @ (Value::Text(_) | Value::List(_) | Value::Tuple(_))) => {
                let Some(times) = times.as_int() else {
                    let kind = times.kind();
                    return Err(Fault::new(format!("can't multiply sequence by non-int of type '{kind}'")));
                };
                let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
                match repeated {
                    Value::Text(text) => {
                        self.budget.spend_product(text.len(), times)?;
                        Ok(text.repeat(times).into())
                    }
                    Value::List(items) | Value::Tuple(items) => {
                        self.budget.spend_product(items.values.len().saturating_mul(48), times)?;
                        // No items are no work, however often.
                        let times = if items.values.is_empty() { 0 } else { times };
                        let values = (0..times).flat_map(|_| items.values.iter().cloned()).collect();
                        match repeated {
                            Value::List(_) => Value::list(values, &self.budget),
                            _ => Value::tuple(values, &self.budget),
                        }
                    }
                    _ => unreachable!("the pattern has only these"),
                }
            }
            (Operator::Remainder, Value::Text(format), _) => self.percent(format, right),
            _ => arithmetic(operator, left, right),
        }
    }
}

fn arithmetic(operator: Operator, left: &Value, right: &Value) -> Out<Value> {
    let sign = match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::FloorDivide => "//",
        Operator::Remainder => "%",
        Operator::Power => "** or pow()",
    };
    let unsupported = || {
        let (left, right) = (left.kind(), right.kind());
        Fault::new(format!("unsupported operand type(s) for {sign}: '{left}' and '{right}'"))
    };
    let zero = || Fault::new("division by zero");
    if operator != Operator::Divide
        && let (Some(a), Some(b)) = (left.as_int(), right.as_int())
    {
        let floor = |a: i128, b: i128| {
            let (quotient, remainder) = (a.checked_div(b)?, a.checked_rem(b)?);
            let below = remainder != 0 && (remainder < 0) != (b < 0);
            Some(if below { (quotient - 1, remainder + b) } else { (quotient, remainder) })
        };
        let value = match operator {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::FloorDivide | Operator::Remainder if b == 0 => return Err(zero()),
            Operator::FloorDivide => floor(a, b).map(|(quotient, _)| quotient),
            Operator::Remainder => floor(a, b).map(|(_, remainder)| remainder),
            _ if b < 0 && a == 0 => return Err(zero()),
            _ if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
            _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        };
        return value.map(Value::Int).ok_or_else(|| Fault::limit(0, "an integer of more than 128 bits"));
    }
    let (a, b) = left.as_float().zip(right.as_float()).ok_or_else(unsupported)?;
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Power => a.powf(b),
        _ if b == 0.0 => return Err(zero()),
        Operator::Divide => a / b,
        Operator::FloorDivide => (a / b).floor(),
        Operator::Remainder => a - (a / b).floor() * b,
    }))
}

/// Sorts by an order that can fail; equal values keep their order.
pub(super) fn sort<T>(values: &mut [T], order: impl Fn(&T, &T) -> Out<Option<Ordering>>) -> Out<()> {
    let mut fault = None;
    values.sort_by(|a, b| match fault {
        Some(_) => Ordering::Equal,
        None => match order(a, b) {
            Ok(order) => order.unwrap_or(Ordering::Equal),
            Err(reason) => {
                fault = Some(reason);
                Ordering::Equal
            }
        },
    });
    fault.map_or(Ok(()), Err)
}
