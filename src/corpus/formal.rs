//! Modular arithmetic, brackets and code: texts with exact rules.

use super::draw::Draw;

/// Several lines of equations modulo one small number.
pub(super) fn modular(draw: &mut Draw) -> String {
    let modulus = draw.range(3, 9);
    let mut s = format!("mod {modulus}\n");
    for _ in 0..draw.range(4, 8) {
        let equations: Vec<String> = (0..3)
            .map(|_| {
                let (a, b) = (draw.below(modulus), draw.below(modulus));
                match draw.below(3) {
                    0 => format!("{a}+{b}={}", (a + b) % modulus),
                    1 => format!("{a}-{b}={}", (a + modulus - b) % modulus),
                    _ => format!("{a}*{b}={}", a * b % modulus),
                }
            })
            .collect();
        s += &equations.join(", ");
        s.push('\n');
    }
    s
}

const KINDS: [(&str, &str); 4] = [("(", ")"), ("[", "]"), ("{", "}"), ("<", ">")];

/// Lines of balanced brackets; a document uses two to four kinds.
pub(super) fn brackets(draw: &mut Draw) -> String {
    let count = draw.range(2, 4);
    let kinds = draw.several(&KINDS, count);
    let mut s = String::new();
    for _ in 0..draw.range(2, 4) {
        let mut line: Vec<&str> = Vec::new();
        let mut open: Vec<&str> = Vec::new();
        let length = 2 * draw.range(5, 12);
        while line.len() + open.len() < length {
            if open.is_empty() || (open.len() < 6 && !draw.one_in(3)) {
                let (left, right) = draw.pick(&kinds);
                line.push(left);
                open.push(right);
            } else {
                line.extend(open.pop());
            }
        }
        line.extend(open.into_iter().rev());
        s += &line.join(" ");
        s.push('\n');
    }
    s
}

const FUNCTIONS: [&str; 8] =
    ["compute", "update", "process", "resolve", "encode", "filter", "reduce", "merge"];
const VARIABLES: [&str; 12] = [
    "count", "index", "total", "value", "width", "offset", "buffer", "limit", "result", "temp", "flag",
    "size",
];

/// A value made of names in scope.
fn expression(draw: &mut Draw, scope: &[&str]) -> String {
    let name = draw.pick(scope);
    match draw.below(4) {
        0 => format!("{name} {} {}", draw.pick(&["+", "-", "*", "%"]), draw.pick(scope)),
        1 => format!("{}({name})", draw.pick(&["abs", "len", "hash"])),
        2 => format!("{name} {} {}", draw.pick(&["<<", ">>", "&"]), draw.pick(&["1", "2", "8"])),
        _ => format!("self.{name}"),
    }
}

/// A function of some statements, each using only parameters and names declared above it.
pub(super) fn code(draw: &mut Draw) -> String {
    let names = draw.several(&VARIABLES, 7);
    let mut known = draw.range(1, 2);
    let types: Vec<String> = names[..known]
        .iter()
        .map(|name| format!("{name}: {}", draw.pick(&["u32", "i64", "usize"])))
        .collect();
    let mut s =
        format!("fn {}({}) -> {} {{\n", draw.pick(&FUNCTIONS), types.join(", "), draw.pick(&["u32", "i64"]));
    for _ in 0..draw.range(2, 4) {
        let scope = &names[..known];
        match draw.below(4) {
            0 | 1 => {
                s += &format!("    let mut {} = {};\n", names[known], expression(draw, scope));
                known += 1;
            }
            2 => {
                let (a, b) = (draw.pick(scope), draw.pick(scope));
                let (sign, body) =
                    (draw.pick(&["==", "!=", "<="]), draw.pick(&["return 0", "break", "continue"]));
                s += &format!("    if {a} {sign} {b} {{\n        {body};\n    }}\n");
            }
            _ => {
                let (a, b) = (draw.pick(scope), draw.pick(scope));
                let change = draw.pick(&["+=", "-=", "^="]);
                s += &format!("    for i in 0..{a} {{\n        {b} {change} self[i];\n    }}\n");
            }
        }
    }
    s + &format!("    return {};\n}}\n", draw.pick(&names[..known]))
}
