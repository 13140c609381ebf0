//! Chat templates made to take all time, memory or stack: each ends in one error within bounds.
//!
//! Alone in its process, so that the peak of its memory is the templates'.

mod common;

use std::{
    fs,
    sync::LazyLock,
    time::{Duration, Instant},
};

use common::models::{Folder, VOCAB_SIZE};
use probeprune::{Result, tokenizer::Tokenizer};

const MOST_TIME: Duration = Duration::from_secs(2);
const MOST_MEMORY_KIB: u64 = 256 << 10;
/// How often an attack repeats its part.
const MANY: usize = 40_000;

fn render(template: &str) -> Result<String> {
    // Weights are not read, and one folder's are enough to write.
    static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::llama);
    FOLDER.write("chat_template.jinja", template);
    let tokenizer = Tokenizer::load(&FOLDER.source(), VOCAB_SIZE).unwrap();
    tokenizer.chat_template().unwrap().render(&[("user", "hello")], true)
}

/// The most memory that this process has had at once; 0 where the system does not say.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or(0, |peak| peak.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Renders within the bounds; gives the error, if it is one.
fn bounded(template: &str) -> Option<String> {
    let shown = &template[..template.len().min(80)];
    let start = Instant::now();
    let result = render(template);
    assert!(start.elapsed() < MOST_TIME, "{shown}: {:?}", start.elapsed());
    assert!(peak_kib() < MOST_MEMORY_KIB, "{shown}: {} KiB", peak_kib());
    let error = result.err()?.to_string();
    assert!(error.len() < 600 && error.lines().count() == 1, "{shown}: {error}");
    Some(error)
}

fn assert_limited(template: &str) {
    let error =
        bounded(template).unwrap_or_else(|| panic!("rendered: {}", &template[..template.len().min(80)]));
    let expected = "chat template: expected an end within the limits on work, memory and depth, got";
    assert!(error.contains(expected), "{}: {error}", &template[..template.len().min(80)]);
}

/// `{{ open open … middle … close close }}`
fn nested(open: &str, middle: &str, close: &str) -> String {
    format!("{{{{ {}{middle}{} }}}}", open.repeat(MANY), close.repeat(MANY))
}

#[test]
fn hostile_templates_end_in_one_error() {
    deep_source();
    long_source();
    recursion();
    values_that_double();
    values_in_one_another();
    sizes();
    work();
}

fn deep_source() {
    for (open, middle, close) in [
        ("not ", "x", ""),
        ("-", "1", ""),
        ("(", "1", ")"),
        ("[", "", "]"),
        ("{1:", "1", "}"),
        ("x[", "0", "]"),
        ("x(", "", ")"),
        ("x|default(", "1", ")"),
        ("1 if ", "1", ""),
        ("1 if 1 else ", "1", ""),
        ("x is eq(", "1", ")"),
    ] {
        assert_limited(&nested(open, middle, close));
    }
    for chain in [
        "-1",
        ".a",
        "[0]",
        "()",
        "|upper",
        "|join(',')",
        " is defined",
        "~'a'",
        " and 1",
        " or 1",
        "**1",
        "<2",
        " in x",
        " if 1 else 1",
        " if 1",
        "%1",
        "//1",
    ] {
        assert_limited(&format!("{{{{ 1{} }}}}", chain.repeat(MANY)));
    }
    for (open, close) in [
        ("{% if 1 %}", "{% endif %}"),
        ("{% for a in [1] %}", "{% endfor %}"),
        ("{% with %}", "{% endwith %}"),
        ("{% set x %}", "{% endset %}"),
        ("{% filter upper %}", "{% endfilter %}"),
        ("{% call m() %}", "{% endcall %}"),
        ("{% macro m() %}", "{% endmacro %}"),
        ("{% generation %}", "{% endgeneration %}"),
        ("{% if 0 %}{% else %}", "{% endif %}"),
    ] {
        assert_limited(&format!("{}{}", open.repeat(4_000), close.repeat(4_000)));
        // As many, but closed one by one, are no error.
        assert_eq!(
            bounded(&format!("{{% macro m() %}}{{% endmacro %}}{}", format!("{open}{close}").repeat(2_000))),
            None
        );
    }
    for target in ["{% for PLACE in x %}{% endfor %}", "{% set PLACE = x %}"] {
        assert_limited(&target.replace("PLACE", &format!("{}a{}", "(".repeat(MANY), ")".repeat(MANY))));
    }
}

fn long_source() {
    assert_limited(&"x".repeat(1 << 19));
    assert_limited(&format!("{{{{ [{}] }}}}", "1,".repeat(MANY)));
    assert_limited(&format!("{{{{ x({}) }}}}", "1,".repeat(MANY)));
    assert_eq!(bounded(&format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20_000))), None);
    assert_eq!(bounded(&"{{1}}".repeat(50_000)), None);
    let opened = "{{ 1 ".repeat(MANY);
    assert!(
        bounded(&opened).is_some()
            && bounded(&"{#".repeat(MANY)).is_some()
            && bounded(&"{%".repeat(MANY)).is_some()
    );
    let variables: String = (0..8_000).map(|index| format!("{{% set a{index} = 1 %}}")).collect();
    assert_eq!(bounded(&variables), None);
}

fn recursion() {
    for template in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% set y = f(x) %}{% endmacro %}{{ f(1) }}",
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
        "{% macro f(x=f()) %}{% endmacro %}{{ f() }}",
        "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
        "{% for a in range(99) %}{% for b in [1] recursive %}{{ loop(loop.cycle([1], [2])) }}{% endfor %}{% endfor %}",
    ] {
        assert_limited(template);
    }
    for template in
        ["{% include 'self' %}", "{% extends 'self' %}", "{% import 'self' as a %}", "{{ caller() }}"]
    {
        assert!(bounded(template).is_some(), "{template}");
    }
    let deep = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% else %}end{% endif %}{% endmacro %}{{ f(50) }}";
    assert_eq!(render(deep).unwrap(), "end");
}

/// A value that is made of itself twice, again and again, and something done with it.
fn doubled(first: &str, twice: &str, done: &str) -> String {
    format!(
        "{{% set n = namespace(x={first}, y={first}) %}}{{% for i in range(60) %}}{{% set n.x = {twice} %}}\
         {{% set n.y = {} %}}{{% endfor %}}{{{{ {done} }}}}",
        twice.replace("n.x", "n.y")
    )
}

fn values_that_double() {
    for twice in [
        "n.x ~ n.x",
        "n.x + n.x",
        "n.x * 2",
        "n.x|replace('x', 'xx')",
        "n.x.replace('', n.x)",
        "n.x.join([n.x, n.x])",
        "'%s%s' % (n.x, n.x)",
        "'{0}{0}'.format(n.x)",
        "[n.x, n.x]|join",
        "n.x|indent(n.x|length, true)",
        "n.x.center(2 * n.x|length)",
        "n.x|string + n.x|upper",
    ] {
        assert_limited(&doubled("'x'", twice, "n.x"));
    }
    for twice in ["n.x + n.x", "n.x * 2", "(n.x|list + n.x)", "n.x|list * 3", "[n.x, n.x]|sum(start=[])"] {
        assert_limited(&doubled("[1]", twice, "n.x|length"));
    }
    for twice in ["{'a': n.x, 'b': n.x}", "(n.x, n.x)", "dict(a=n.x, b=n.x)", "[n.x]*2"] {
        assert_limited(&doubled("[1]", twice, "n.x == n.y"));
    }
    for done in [
        "n.x",
        "n.x ~ ''",
        "n.x|string|length",
        "n.x == n.y",
        "n.x|tojson",
        "[n.x]|join",
        "'%s' % [n.x]",
        "'{}'.format(n.x)",
        "n.x in [n.y]",
        "[n.y].count(n.x)",
        "raise_exception(n.x)",
        "'%r' % [n.x]",
    ] {
        assert_limited(&doubled("[1]", "[n.x, n.x]", done));
    }
    for done in [
        "n.x < n.y",
        "{n.x: 1}",
        "[n.x, n.y]|unique",
        "[n.x, n.y]|sort",
        "[n.x, n.y]|max",
        "messages[0][n.x]",
    ] {
        assert_limited(&doubled("1", "(n.x, n.x)", done));
    }
    assert_eq!(bounded(&doubled("[1]", "[n.x, n.x]", "1")), None);
}

fn values_in_one_another() {
    for inside in [
        "[n.x]",
        "{'a': n.x}",
        "(n.x,)",
        "dict(a=n.x)",
        "[n.x]|batch(1)",
        "{'a': n.x}|items",
        "n.x|slice(1)|list",
    ] {
        assert_limited(&format!(
            "{{% set n = namespace(x=[1]) %}}{{% for i in range(99999) %}}{{% set n.x = {inside} %}}{{% endfor %}}"
        ));
    }
    // A namespace in itself, and a long chain of them.
    assert_limited("{% set n = namespace() %}{% set n.x = n %}{{ n }}");
    assert_limited("{% set n = namespace() %}{% set n.x = [n, n] %}{{ n }}");
    let chain =
        "{% set n = namespace(x=1) %}{% for i in range(2000) %}{% set n.x = namespace(x=n.x) %}{% endfor %}";
    assert_eq!(bounded(chain), None);
    assert_limited(&format!("{chain}{{{{ n }}}}"));
    // Again and again made from what was before.
    for again in [
        "n.x|reverse",
        "n.x[0:]",
        "n.x * 1",
        "n.x|map('string')",
        "n.x + [1]",
        "n.x|list",
        "n.x|sort",
        "n.x|unique",
    ] {
        assert_limited(&format!(
            "{{% set n = namespace(x=range(99)|list) %}}{{% for i in range(99999) %}}{{% set n.x = {again} %}}{{% endfor %}}"
        ));
    }
}

fn sizes() {
    for huge in [
        "'{:>9999999999}'.format(1)",
        "'{:99999999}'.format(1)",
        "'{:.99999999f}'.format(1.5)",
        "'{:{}}'.format(1, 99999999)",
        "('{0}' * 100000).format('x' * 100000)",
        "'{:099999999999999999999999}'.format(1)",
        "'%9999999999d' % 1",
        "'%.9999999999d' % 1",
        "'%*d' % (999999999, 1)",
        "'%.999999999f' % 1.5",
        "'%999999999s'|format(1)",
        "'a' * 10**12",
        "10**12 * 'a'",
        "[1] * 10**9",
        "(1,) * 10**9",
        "range(10**9)",
        "range(0 - 10**30, 10**30)",
        "'x'|center(10**12)",
        "'x'.center(10**9)",
        "'x'.ljust(10**12)",
        "'x'.rjust(10**12)",
        "'x'.zfill(10**12)",
        "'x\\ny'|indent(10**12)",
        "('x\\n' * 100000)|indent(10000)",
        "[1]|tojson(indent=10**12)",
        "[[[1]]]|tojson(indent='x' * 9**7)",
        "[1, 2]|tojson(separators=['x' * 9**8, ':'])",
        "('a' * 100000).replace('a', 'b' * 100000)",
        "('a' * 100000)|replace('', 'b' * 100000)",
        "('a' * 100000)|join('b' * 100000)",
        "('b' * 100000).join('a' * 100000)",
        "''.join(['x' * 100000] * 100000)",
        "range(10)|slice(10**9)",
        "range(10)|batch(10**9, 1)",
        "2 ** 999999",
        "9 ** 99 ** 9",
        "strftime_now('%c' * 10000000)",
        "('é' * 30000000)[::-1]",
    ] {
        assert_limited(&format!("{{{{ {huge} }}}}"));
    }
    // The ends of what integers can be: any text or error, but no overflow.
    let least = "(0 - 2**126 - 2**126)";
    for edge in [
        "-LEAST",
        "'-1'.zfill(LEAST)",
        "'a'.center(LEAST)",
        "'a'[LEAST:2**126:LEAST]",
        "range(0, LEAST, LEAST)",
        "LEAST|abs",
        "LEAST|round(0 - 2)",
        "LEAST|round(LEAST)",
        "[1][LEAST]",
        "LEAST // -1",
        "LEAST % -1",
        "LEAST * LEAST",
        "LEAST - 1",
        "'%d' % LEAST",
        "'{:,}'.format(LEAST)",
        "'a'.find('a', LEAST)",
        "1e300|int",
        "LEAST ** LEAST",
        "'x'|indent(LEAST)",
    ] {
        bounded(&format!("{{{{ {} }}}}", edge.replace("LEAST", least)));
    }
    // No items are none, however often.
    for nothing in ["[] * 10**12", "'' * 10**12", "() * 10**12"] {
        assert_eq!(bounded(&format!("{{{{ {nothing} }}}}")), None);
    }
    for number in
        ["9".repeat(100_000), format!("1e{}", "9".repeat(100_000)), format!("0x{}", "f".repeat(100_000))]
    {
        bounded(&format!("{{{{ {number} }}}}"));
    }
}

fn work() {
    assert_limited(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    );
    assert_limited("{% for i in range(99999) %}{{ messages[0].content * 99999 }}{% endfor %}");
    for done in [
        "x.split()",
        "x.upper()",
        "x.find('aaaaaaaaab')",
        "x.count('b')",
        "x.isalpha()",
        "'b' in x",
        "x ~ 'a' == x ~ 'a'",
        "x[400000]",
        "x|length",
        "x[1:2]",
        "x.strip('a')",
        "x.splitlines()",
        "(x ~ 'b').startswith(x)",
        "x|wordcount",
        "x|int",
        "x|truncate",
        "x|title",
        "{x: 1}",
        "x|e",
        "x is lower",
        "x < x",
        "x|list",
        "x.index('a')",
    ] {
        assert_limited(&format!(
            "{{% set x = 'a' * 500000 %}}{{% for i in range(99999) %}}{{% set y = {done} %}}{{% endfor %}}"
        ));
    }
    for kept in
        ["{1: 2, 3: 4}", "namespace(a=1)", "range(999)|list", "'x' * 9999", "messages|map('string')", "f"]
    {
        assert_limited(&format!(
            "{{% for i in range(99999) %}}{{% for j in range(99) %}}{{% macro f(a, b) %}}{{% endmacro %}}\
             {{% set y = {kept} %}}{{% endfor %}}{{% endfor %}}"
        ));
    }
}
