//! Properties of the parser and the formatter on made-up texts.

use ddnnc_diag::{Diagnostic, SourceId, SourceMap, render};
use ddnnc_syntax::{SpecFile, dump, format, parse};
use proptest::collection::vec;
use proptest::prelude::*;
use std::path::Path;

/// Parses a text and checks what holds for any: places lie in the text on character borders, and it renders.
fn check_any(text: &str) -> Result<SpecFile, Vec<Diagnostic>> {
    let mut sources = SourceMap::new();
    let id = sources.add("any.ddnn", text);
    let result = parse(text, id);
    if let Err(diagnostics) = &result {
        assert!(!diagnostics.is_empty() && diagnostics.len() <= 20, "{} diagnostics", diagnostics.len());
        for diagnostic in diagnostics {
            assert!(!diagnostic.labels.is_empty(), "{diagnostic:?} has no place");
            for label in &diagnostic.labels {
                let (start, end) = (label.span.start as usize, label.span.end as usize);
                assert!(start <= end && end <= text.len(), "{label:?} is outside of the text");
                assert!(
                    text.is_char_boundary(start) && text.is_char_boundary(end),
                    "{label:?} cuts a character"
                );
            }
        }
        assert!(!render(diagnostics, &sources, false).is_empty());
        render(diagnostics, &sources, true);
    }
    result
}

fn comments(file: &SpecFile) -> Vec<&str> {
    let mut comments: Vec<&str> = file.comments.iter().map(|c| c.text.as_str()).collect();
    comments.sort_unstable();
    comments
}

/// Formats a correct text and checks that nothing but the layout changes, and that a second time changes nothing.
fn check_format(text: &str) {
    let file = match parse(text, SourceId(0)) {
        Ok(file) => file,
        Err(errors) => panic!("{errors:?}\n{text}"),
    };
    let once = format(&file, text);
    let again = match parse(&once, SourceId(0)) {
        Ok(file) => file,
        Err(errors) => panic!("the canonical form does not parse: {errors:?}\n{text}\n=>\n{once}"),
    };
    assert_eq!(dump(&file), dump(&again), "the tree changed\n{text}\n=>\n{once}");
    assert_eq!(comments(&file), comments(&again), "comments changed\n{text}\n=>\n{once}");
    let twice = format(&again, &once);
    assert!(once == twice, "not idempotent\n{text}\n=>\n{once}\n=>\n{twice}");
    assert!(!once.lines().any(|line| line.ends_with(' ')), "blanks at the end of a line\n{once}");
    assert!(!once.contains("\n\n\n"), "two blank lines\n{once}");
}

fn spec_texts() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts =
        vec![std::fs::read_to_string(root.join("tests/data/everything.ddnn")).expect("a readable file")];
    let specs = std::fs::read_dir(root.join("../../specs")).expect("the folder of specs");
    let mut paths: Vec<_> = specs.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "ddnn")) {
        texts.push(std::fs::read_to_string(path).expect("a readable file"));
    }
    texts
}

#[test]
fn specs_keep_their_tree_and_comments_when_formatted() {
    let texts = spec_texts();
    assert!(texts.len() > 1);
    for text in &texts {
        check_format(text);
        check_format(&text.replace('\n', "\r\n"));
        check_format(&format!("\u{feff}{text}"));
    }
}

/// `·` in a made-up text is any white space or comment.
fn spaced(text: &str, choices: &[u8]) -> String {
    let mut out = String::new();
    let mut choices = choices.iter().copied().cycle();
    for (i, piece) in text.split('·').enumerate() {
        if i > 0 {
            match choices.next().unwrap_or(0) {
                0 => out.push_str(&format!(" // trailing {i}\n")),
                1 => out.push_str(&format!("\n// own {i}\n")),
                2 => out.push_str(&format!("\n\n\n    // apart {i}\r\n\n\n")),
                3 => out.push('\n'),
                4 => out.push_str("\n\n \n"),
                5 => out.push_str("\t \r\n  "),
                _ => out.push(' '),
            }
        }
        out.push_str(piece);
    }
    out
}

fn name() -> BoxedStrategy<String> {
    prop_oneof![
        Just("in"),
        Just("bn"),
        Just("x"),
        Just("s1"),
        Just("a_rather_long_name_of_an_operator"),
        Just("notx")
    ]
    .prop_map(str::to_string)
    .boxed()
}

fn list_of(element: BoxedStrategy<String>, open: &'static str, close: &'static str) -> BoxedStrategy<String> {
    (vec(element, 0..5), any::<bool>())
        .prop_map(move |(elements, comma)| {
            let comma = if comma && !elements.is_empty() { "·," } else { "" };
            format!("{open}·{}{comma}·{close}", elements.join("·,·"))
        })
        .boxed()
}

fn body(value: BoxedStrategy<String>) -> BoxedStrategy<String> {
    (vec((name(), value.clone()), 0..2), value)
        .prop_map(|(lets, value)| {
            let lets: String = lets.iter().map(|(n, v)| format!("let·{n}·=·{v}\n·")).collect();
            format!("{{·{lets}({value})·}}")
        })
        .boxed()
}

fn expr() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        name(),
        Just("12".to_string()),
        Just("1_000".to_string()),
        Just("1e-4".to_string()),
        Just("\"a\\\"b // no comment\"".to_string()),
        Just("true".to_string()),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        let inner = inner.boxed();
        let operator = prop_oneof![
            Just("or"),
            Just("and"),
            Just("=="),
            Just("<"),
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%")
        ];
        let argument = prop_oneof![
            inner.clone(),
            (name(), inner.clone()).prop_map(|(n, v)| format!("{n}·=·{v}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}·->·{b}")),
        ];
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a})·{op}·({b})")),
            (inner.clone(), prop_oneof![Just("or"), Just("-"), Just("*")], inner.clone())
                .prop_map(|(a, op, b)| format!("(·{a}·)·{op}·{b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}·|>·{b}·|>·{a}")),
            inner.clone().prop_map(|a| format!("(·{a}·)")),
            inner.clone().prop_map(|a| format!("-·({a})")),
            inner.clone().prop_map(|a| format!("not·({a})")),
            inner.clone().prop_map(|a| format!("({a})·.·channels")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}·)·[·{b}·]")),
            name().prop_map(|a| format!("(·{a}·as·{a}·)")),
            list_of(inner.clone(), "[", "]"),
            (name(), list_of(argument.boxed(), "(", ")")).prop_map(|(n, args)| format!("{n}{args}")),
            (inner.clone(), body(inner.clone()), body(inner.clone()))
                .prop_map(|(c, a, b)| format!("if·{c}·{a}·else·{b}")),
            (inner.clone(), body(inner.clone()), inner.clone(), body(inner.clone()))
                .prop_map(|(c, a, d, b)| format!("if·{c}·{a}·else·if·{d}·{a}·else·{b}")),
        ]
    })
    .boxed()
}

fn settings() -> impl Strategy<Value = String> {
    vec((name(), expr(), any::<bool>()), 0..4).prop_map(|settings| {
        let mut out = String::from("{·");
        for (key, value, line) in settings {
            out.push_str(&format!("{key}·=·{value}{}·", if line { "\n" } else { "·," }));
        }
        out.push('}');
        out
    })
}

fn item() -> impl Strategy<Value = String> {
    let terms = vec(prop_oneof![name(), name().prop_map(|n| format!("{n}(·weight·=·3·)"))], 0..4)
        .prop_map(|terms| format!("{{·{}·}}", terms.join("·,·")))
        .boxed();
    let targets = prop_oneof![name(), list_of(name(), "[", "]")].boxed();
    let instance =
        (name(), prop::option::of(list_of(expr(), "(", ")")), prop::option::of(list_of(expr(), "[", "]")))
            .prop_map(|(n, args, depth)| {
                format!(
                    "{n}{}{}",
                    args.unwrap_or_default(),
                    depth.map_or(String::new(), |d| format!("·depth·{d}"))
                )
            })
            .boxed();
    let entry = prop_oneof![
        name(),
        name().prop_map(|n| format!("(·n - 1·)·*·{n}(·3·)")),
        name().prop_map(|n| format!("9·*·{n}·|>·{n}(·3·)")),
        name().prop_map(|n| format!("9·*·(·{n}·as·x·|>·{n}(·3·)·)")),
    ];
    let member = prop_oneof![
        (name(), expr()).prop_map(|(n, e)| format!("let·{n}·=·{e}\n·")),
        (name(), expr()).prop_map(|(n, e)| format!("{n}·=·{e}\n·")),
        (name(), vec(entry, 1..4)).prop_map(|(n, e)| format!("stage·{n}·=·{}\n·", e.join("·,·"))),
    ];
    let supervise = (targets.clone(), terms.clone()).prop_map(|(t, s)| format!("supervise·{t}·{s}")).boxed();
    let distill = (expr(), targets, terms).prop_map(|(e, t, s)| format!("distill·({e})·->·{t}·{s}")).boxed();
    let phase_item = prop_oneof![
        supervise.clone(),
        distill.clone(),
        settings().prop_map(|s| format!("order·{s}")),
        (name(), expr()).prop_map(|(k, v)| format!("{k}·=·{v}")),
        expr().prop_map(|v| format!("train·=·{v}")),
    ];
    prop_oneof![
        (name(), list_of(expr(), "[", "]")).prop_map(|(n, d)| format!("input·{n}·:·f32{d}")),
        name().prop_map(|n| format!("target·{n}·:·class[·10·]")),
        (name(), expr()).prop_map(|(n, e)| format!("let·{n}·=·{e}")),
        (name(), prop::option::of(list_of(name(), "(", ")")), body(expr()))
            .prop_map(|(n, p, b)| format!("block·{n}{}·{b}", p.unwrap_or_default())),
        (name(), vec(member, 0..4))
            .prop_map(|(n, m)| format!("backbone·{n}(·width·=·3·)·{{·{}}}", m.concat())),
        (name(), instance.clone()).prop_map(|(n, i)| format!("subnet·{n}·=·{i}")),
        (name(), instance, prop::option::of(settings()))
            .prop_map(|(n, i, s)| format!("network·{n}·=·{i}·{}", s.unwrap_or_default())),
        (name(), expr(), expr()).prop_map(|(n, i, h)| format!("exit·{n}·=·{n}·after·{n}·[·{i}·]·|>·{h}")),
        (name(), settings()).prop_map(|(n, s)| format!("share·{n}·{s}")),
        supervise,
        distill,
        settings().prop_map(|s| format!("train·{s}")),
        (name(), settings()).prop_map(|(n, s)| format!("task·{n}·{s}")),
        (name(), vec(phase_item, 0..4)).prop_map(|(n, i)| format!("phase·{n}·{{·{}·}}", i.join("·\n·"))),
    ]
}

/// Every word and sign of the language, and some that are not.
const TOKENS: &[&str] = &[
    "model",
    "input",
    "target",
    "let",
    "block",
    "backbone",
    "stage",
    "subnet",
    "exit",
    "network",
    "share",
    "supervise",
    "distill",
    "train",
    "phase",
    "order",
    "task",
    "depth",
    "after",
    "as",
    "if",
    "else",
    "and",
    "or",
    "not",
    "true",
    "false",
    "in",
    "x",
    "conv",
    "12",
    "0.5",
    "1e-4",
    "\"s\"",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "=",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "%",
    ".",
    "|>",
    "->",
    "\n",
    "\n",
    "// c\n",
    "\"",
    "'",
    "#",
    "é",
    "!",
    "&&",
    "x(",
    "\t",
    "\r\n",
    "\\",
    ";",
    "99999999999999999999",
    "1.",
    "1x",
    "\u{feff}",
    "/*",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        let _ = check_any(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_tokens_are_parsed_or_refused(tokens in vec(0..TOKENS.len(), 0..80), model: bool) {
        let text: Vec<&str> = tokens.iter().map(|i| TOKENS[*i]).collect();
        let text = text.join(" ");
        let _ = check_any(&if model { format!("model m\n{text}") } else { text });
    }

    #[test]
    fn changed_specs_are_parsed_or_refused(which: prop::sample::Index, at: prop::sample::Index, cut in 0usize..40, token in 0..TOKENS.len()) {
        let texts = spec_texts();
        let text = which.get(&texts);
        let start = text.floor_char_boundary(at.index(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len()));
        let changed = format!("{}{}{}", &text[..start], TOKENS[token], &text[end..]);
        if check_any(&changed).is_ok() {
            check_format(&changed);
        }
    }

    #[test]
    fn made_up_specs_keep_their_tree_and_comments_when_formatted(
        items in vec(item(), 0..4),
        choices in vec(0u8..24, 1..60),
    ) {
        check_format(&spaced(&format!("model·m\n·{}·", items.join("\n·")), &choices));
    }

    #[test]
    fn texts_with_few_breaks_keep_their_tree_when_formatted(items in vec(item(), 1..3), choices in vec(3u8..80, 1..30)) {
        check_format(&spaced(&format!("model·m\n·{}·", items.join("\n·")), &choices));
    }
}

#[test]
fn deep_nesting_is_refused() {
    let many = 100_000;
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{", "}"),
        ("f(", ")"),
        ("x[", "]"),
        ("-", ""),
        ("- ", ""),
        ("not ", ""),
        ("if ", ""),
        ("if x { 1 } else ", ""),
        ("if x { ", " } else { 1 }"),
        ("1 + ", ""),
        ("x.", "x"),
        ("x |> (", ")"),
        ("a -> ", ""),
        ("(((", ""),
        ("[1, (", ")]"),
    ] {
        let text = format!("model m\nlet a = {}1{}\n", open.repeat(many), close.repeat(many));
        assert!(check_any(&text).is_err(), "{open}");
    }
    // Long without being deep.
    for part in
        [" |> x", " as x |> x", "[0]", ".x", "\nlet b = 1", "\ntrain { }", "\nlet c = x(1, 2)", " + 1"]
    {
        let _ = check_any(&format!("model m\nlet a = x{}\n", part.repeat(many / 10)));
    }
    assert!(check_any(&format!("model m\nlet a = [{}]\n", "[1], ".repeat(many))).is_ok());
    assert!(check_any(&format!("model m\nlet a = x{}\n", " |> x".repeat(many))).is_ok());
    assert!(check_any(&format!("model m\n// {}", "x".repeat(1 << 20))).is_err());
}

/// What takes a compiler or a formatter with a quadratic step minutes.
#[test]
fn large_texts_take_little_time() {
    let times = |n: usize, part: &str| part.repeat(n);
    let params: Vec<String> = (0..100_000).map(|i| format!("a{i}")).collect();
    let texts = [
        format!("model m\nblock b({}) {{ in }}\n", params.join(", ")),
        format!("model m\nblock b({} = 1) {{ in }}\n", params.join(" = 1, ")),
        format!("model m\n{}", times(50_000, "let x = \"let x = \" ")),
        format!("model m\n{}", times(50_000, "'a' ")),
        format!("model m\n{}", times(300_000, "/*\n")),
        format!("model m\n{}", times(100_000, "foo bar\n")),
        format!("model m\n{}", times(300_000, "}\n")),
        format!("model m\nlet {} = 1\nlet b = 2\n", times(65_536, "a")),
        format!("model m\n{} x\n", times(500_000, "let")),
    ];
    for text in &texts {
        let start = std::time::Instant::now();
        if let Ok(file) = check_any(text) {
            format(&file, text);
        }
        let time = start.elapsed();
        assert!(time.as_secs() < 20, "{time:?} for {} …", &text[..40]);
    }
}
