//! Jinja's filters that go through a list: choosing, mapping, ordering, dividing.

use std::{cmp::Ordering, collections::HashSet};

use super::{
    Fault, Out,
    filters::flag,
    interpreter::Machine,
    methods::{Arguments, optional_text},
    operators::sort,
    value::Value,
};

impl Machine<'_> {
    pub(super) fn parts(
        &self,
        name: &str,
        values: Vec<Value>,
        count: usize,
        fill: Option<Value>,
    ) -> Out<Value> {
        let fill = fill.filter(|fill| !matches!(fill, Value::None));
        let mut parts = Vec::new();
        if name == "batch" {
            for chunk in values.chunks(count) {
                let mut part = chunk.to_vec();
                if let Some(fill) = &fill {
                    self.budget.spend_product(48, count - part.len())?;
                    part.resize(count, fill.clone());
                }
                parts.push(Value::list(part, &self.budget)?);
            }
        } else {
            self.budget.spend_product(96, count)?;
            let (each, longer) = (values.len() / count, values.len() % count);
            let mut values = values.into_iter();
            for index in 0..count {
                let mut part: Vec<_> = values.by_ref().take(each + usize::from(index < longer)).collect();
                if longer > 0 && index >= longer {
                    part.extend(fill.clone());
                }
                parts.push(Value::list(part, &self.budget)?);
            }
        }
        Value::list(parts, &self.budget)
    }

    /// The value at a path `a.b.0`, or itself where there is no path.
    pub(super) fn path(&self, value: &Value, path: &Option<Value>) -> Out<Value> {
        let mut found = value.clone();
        match path {
            None | Some(Value::None) => {}
            Some(Value::Text(path)) => {
                for part in path.split('.') {
                    self.budget.spend(16)?;
                    let key = part.parse().map(Value::Int).unwrap_or_else(|_| part.into());
                    found = self.item(&found, &key)?;
                }
            }
            Some(key) => found = self.item(&found, key)?,
        }
        Ok(found)
    }

    pub(super) fn map(&mut self, value: &Value, mut arguments: Arguments) -> Out<Value> {
        let values = value.values(&self.budget)?;
        let mut mapped = Vec::new();
        if arguments.positional.is_empty() {
            let attribute = arguments.take("attribute");
            let default = arguments.take("default");
            if attribute.is_none() || !arguments.named.is_empty() {
                return Err(Fault::new("map requires a filter argument"));
            }
            for value in values {
                let found = self.path(&value, &attribute)?;
                mapped.push(match (&default, found) {
                    (Some(default), Value::Undefined(_)) => default.clone(),
                    (_, found) => found,
                });
            }
        } else {
            let name = arguments.positional.remove(0);
            let Value::Text(name) = name else { return Err(Fault::new("map requires a filter's name")) };
            for value in values {
                self.budget.spend_product(64, 1 + arguments.positional.len() + arguments.named.len())?;
                let arguments =
                    Arguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
                mapped.push(self.filter(&name, value, arguments)?);
            }
        }
        Value::list(mapped, &self.budget)
    }

    pub(super) fn select(&mut self, name: &str, value: &Value, mut arguments: Arguments) -> Out<Value> {
        let mut rest = std::mem::take(&mut arguments.positional).into_iter();
        let attribute = match name.ends_with("attr") {
            false => None,
            true => Some(rest.next().ok_or_else(|| Fault::new("Missing parameter for attribute name"))?),
        };
        let test = match rest.next() {
            None => None,
            Some(Value::Text(test)) => Some(test),
            Some(_) => return Err(Fault::new(format!("{name} needs a test's name"))),
        };
        let rest: Vec<_> = rest.collect();
        let mut selected = Vec::new();
        for value in value.values(&self.budget)? {
            let tested = self.path(&value, &attribute)?;
            let passes = match &test {
                None => tested.is_true(),
                Some(test) => {
                    self.budget.spend_product(64, 1 + rest.len())?;
                    let test = match &**test {
                        "==" => "eq",
                        "!=" => "ne",
                        "<" => "lt",
                        "<=" => "le",
                        ">" => "gt",
                        ">=" => "ge",
                        name => name,
                    };
                    self.test(test, &tested, Arguments { positional: rest.clone(), named: Vec::new() })?
                }
            };
            if passes == name.starts_with("select") {
                selected.push(value);
            }
        }
        Value::list(selected, &self.budget)
    }

    /// What sorting and finding equals compare: text without its case.
    fn sort_key(&self, value: &Value, path: &Option<Value>, case_sensitive: bool) -> Out<Value> {
        match self.path(value, path)? {
            Value::Text(text) if !case_sensitive => Value::text(text.to_lowercase(), &self.budget),
            found => Ok(found),
        }
    }

    pub(super) fn order_filter(&self, name: &str, value: &Value, mut arguments: Arguments) -> Out<Value> {
        let order = |a: &(Value, Value), b: &(Value, Value)| {
            self.budget.spend(32)?;
            a.0.order(&b.0, "<", &self.budget)
        };
        if name == "dictsort" {
            let [case, by, reverse] = arguments.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = value else { return Err(Fault::new("dictsort needs a mapping")) };
            let by_value = match optional_text(name, &by)? {
                None | Some("key") => false,
                Some("value") => true,
                Some(_) => return Err(Fault::new("You can only sort by either \"key\" or \"value\"")),
            };
            let mut keyed = Vec::new();
            for (entry, pair) in dict.entries().iter().zip(self.pairs(dict.entries())?) {
                let key = if by_value { &entry.1 } else { &entry.0 };
                keyed.push((self.sort_key(key, &None, flag(&case))?, pair));
            }
            return self.sorted(keyed, flag(&reverse));
        }
        if name == "groupby" && arguments.positional.is_empty() && arguments.named.is_empty() {
            return Err(Fault::new("groupby needs an attribute"));
        }
        // `sort` alone takes its direction first.
        let (reverse, case, attribute) = match name {
            "sort" => {
                let [reverse, case, attribute] =
                    arguments.bind(name, ["reverse", "case_sensitive", "attribute"])?;
                (reverse, case, attribute)
            }
            "groupby" => {
                arguments.take("default");
                let [attribute, case] = arguments.bind(name, ["attribute", "case_sensitive"])?;
                (None, case, attribute)
            }
            _ => {
                let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
                (None, case, attribute)
            }
        };
        let mut keyed = Vec::new();
        for value in value.values(&self.budget)? {
            keyed.push((self.sort_key(&value, &attribute, flag(&case))?, value));
        }
        match name {
            "sort" => self.sorted(keyed, flag(&reverse)),
            "unique" => {
                let mut seen = HashSet::new();
                let mut unique = Vec::new();
                for (key, value) in keyed {
                    if seen.insert(key.key(&self.budget)?) {
                        unique.push(value);
                    }
                }
                Value::list(unique, &self.budget)
            }
            "groupby" => {
                sort(&mut keyed, order)?;
                let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
                for (key, value) in keyed {
                    match groups.last_mut() {
                        Some((last, _, group)) if last.equals(&key, &self.budget)? => group.push(value),
                        _ => groups.push((key, self.path(&value, &attribute)?, vec![value])),
                    }
                }
                let groups = groups.into_iter().map(|(_, name, group)| {
                    Value::tuple(vec![name, Value::list(group, &self.budget)?], &self.budget)
                });
                Value::list(groups.collect::<Out<_>>()?, &self.budget)
            }
            _ => {
                let mut best: Option<(Value, Value)> = None;
                for entry in keyed {
                    let better = match &best {
                        None => true,
                        Some(best) if name == "min" => order(&entry, best)? == Some(Ordering::Less),
                        Some(best) => order(&entry, best)? == Some(Ordering::Greater),
                    };
                    if better {
                        best = Some(entry);
                    }
                }
                let none = || Value::Undefined("No aggregated item, sequence was empty.".into());
                Ok(best.map_or_else(none, |(_, value)| value))
            }
        }
    }

    fn sorted(&self, mut keyed: Vec<(Value, Value)>, reverse: bool) -> Out<Value> {
        sort(&mut keyed, |a, b| {
            self.budget.spend(32)?;
            let order = a.0.order(&b.0, "<", &self.budget)?;
            Ok(if reverse { order.map(Ordering::reverse) } else { order })
        })?;
        Value::list(keyed.into_iter().map(|(_, value)| value).collect(), &self.budget)
    }
}
