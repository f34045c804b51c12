//! Mutated specs: never a panic, never without end; what compiles is well formed.

mod support;

use ddnnc_ir::Mode;
use proptest::prelude::*;
use std::time::{Duration, Instant};
use support::{spec, specs, try_lower};

/// Words, numbers and single signs of a text, with the blanks between them.
fn tokens(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let class = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' || c == '.' => 0,
        c if c.is_whitespace() => 1,
        _ => 2,
    };
    let mut last = 3;
    for c in text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| l.chars().chain(['\n']))
    {
        let kind = class(c);
        match found.last_mut() {
            Some(word) if kind == last && kind < 2 => word.push(c),
            _ => found.push(c.to_string()),
        }
        last = kind;
    }
    found
}

#[derive(Clone, Debug)]
enum Change {
    Delete(prop::sample::Index),
    Double(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Copy(prop::sample::Index, prop::sample::Index),
    Number(prop::sample::Index, i64),
}

fn change() -> impl Strategy<Value = Change> {
    let number = prop_oneof![
        Just(0i64),
        Just(-1),
        Just(1),
        Just(3),
        Just(1_000_000),
        Just(4_000_000_000),
        Just(i64::MAX),
        0i64..20
    ];
    let at = any::<prop::sample::Index>;
    prop_oneof![
        at().prop_map(Change::Delete),
        at().prop_map(Change::Double),
        (at(), at()).prop_map(|(a, b)| Change::Swap(a, b)),
        (at(), at()).prop_map(|(a, b)| Change::Copy(a, b)),
        (at(), number.clone()).prop_map(|(a, n)| Change::Number(a, n)),
        (at(), number).prop_map(|(a, n)| Change::Number(a, n)),
    ]
}

fn mutate(text: &str, changes: &[Change]) -> String {
    let mut tokens = tokens(text);
    let words = |tokens: &[String], only_numbers: bool| -> Vec<usize> {
        let wanted = |t: &String| match only_numbers {
            true => t.starts_with(|c: char| c.is_ascii_digit()),
            false => !t.trim().is_empty(),
        };
        (0..tokens.len()).filter(|&i| wanted(&tokens[i])).collect()
    };
    for change in changes {
        let all = words(&tokens, false);
        if all.len() < 2 {
            break;
        }
        match change {
            Change::Delete(a) => drop(tokens.remove(*a.get(&all))),
            Change::Double(a) => {
                let at = *a.get(&all);
                let copy = format!(" {}", tokens[at]);
                tokens.insert(at + 1, copy);
            }
            Change::Swap(a, b) => tokens.swap(*a.get(&all), *b.get(&all)),
            Change::Copy(a, b) => tokens[*a.get(&all)] = tokens[*b.get(&all)].clone(),
            Change::Number(a, n) => {
                let numbers = words(&tokens, true);
                if !numbers.is_empty() {
                    tokens[*a.get(&numbers)] = n.to_string();
                }
            }
        }
    }
    tokens.concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_specs_end_in_a_model_or_in_errors(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..4),
        train in any::<bool>(),
    ) {
        let names = specs();
        let name: &String = which.get(&names);
        let text = mutate(&spec(name), &changes);
        let mode = if train { Mode::Train } else { Mode::Eval };
        let start = Instant::now();
        match try_lower(&text, mode, 2) {
            Ok(lowered) => {
                let verified = ddnnc_ir::verify(&lowered.model.graph);
                prop_assert!(verified.is_ok(), "{:?}", verified);
            }
            Err(errors) => prop_assert!(errors.contains("error[") && !errors.contains("incomplete"), "{text}\n{errors}"),
        }
        prop_assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

fn with_blocks(blocks: &str, stage: &str) -> String {
    format!(
        "model m input image : f32[1, 8, 8] target label : class[2] {blocks}
        backbone net {{ stage s1 = {stage} head = global_avg_pool |> linear(classes) }}
        subnet full = net train {{ data = mnist }}"
    )
}

#[test]
fn doubling_is_bounded() {
    let mut blocks = String::from("block b0() { in |> relu }");
    for i in 1..31 {
        let before = i - 1;
        blocks += &format!(" block b{i}() {{ in |> b{before} |> b{before} }}");
    }
    let errors = try_lower(&with_blocks(&blocks, "b30"), Mode::Train, 2).expect_err("too many blocks");
    assert!(errors.contains("more than 10000 blocks"), "{errors}");
    let mut lets = String::from("let a0 = [1, 2]");
    for i in 1..2000 {
        lets += &format!(" let a{i} = a{} + a{}", i - 1, i - 1);
    }
    assert!(try_lower(&with_blocks(&lets, "relu"), Mode::Train, 2).is_err());
}

#[test]
fn long_chains_of_names_end_without_a_full_stack() {
    // Each value at the top level waits for the next.
    let mut lets = String::new();
    for i in 0..20_000 {
        lets += &format!("let a{i} = a{} ", i + 1);
    }
    let text = with_blocks(&lets, "relu").replace("train {", "let a20000 = 1 train {");
    let errors = try_lower(&text, Mode::Train, 2).expect_err("nested too deep");
    assert!(errors.contains("nested too deep"), "{errors}");
}

#[test]
fn many_operators_are_bounded() {
    let lets: String = (0..250).map(|i| format!("let v{i} = in |> relu ")).collect();
    let errors = try_lower(&with_blocks(&format!("block b() {{ {lets} in }}"), "5000 * b"), Mode::Train, 2)
        .expect_err("too many operators");
    assert!(errors.contains("more than 200000 operators"), "{errors}");
}

/// Time enough for a busy machine, and far too little for work that grows with the square of the input.
fn quick(text: &str) {
    assert!(text.len() < 1 << 20, "the parser would refuse {} bytes", text.len());
    let start = Instant::now();
    assert!(try_lower(text, Mode::Train, 2).is_err());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

fn repeat(n: usize, f: impl Fn(usize) -> String) -> String {
    (0..n).map(f).collect::<Vec<_>>().join("\n")
}

#[test]
fn large_files_of_mistakes_are_bounded() {
    let lets = repeat(15_000, |i| format!("let a{i} = b{i}"));
    quick(&with_blocks(&lets, "relu"));
    quick(&with_blocks(&format!("block b() {{ {lets}\n in }}"), "b"));
    let params: Vec<String> = (0..15_000).map(|i| format!("p{i}")).collect();
    let args: Vec<String> = (0..15_000).map(|i| format!("p{i} = {i}")).collect();
    let block = format!("block b({}) {{ in }}", params.join(", "));
    quick(&with_blocks(&block, &format!("b({})", args.join(", "))));
    let exits = repeat(15_000, |i| format!("exit e{i} = f{i} after s2 |> linear(classes)"));
    quick(&with_blocks(&exits, "relu"));
    let students: Vec<String> = (0..60_000).map(|i| format!("s{i}")).collect();
    quick(&with_blocks(&format!("distill full -> [{}] {{ attention }}", students.join(", ")), "relu"));
    for set in ["mean", "gated", "adaptive"] {
        let teachers = students.join(", ");
        quick(&with_blocks(&format!("distill {set}({teachers}) -> full {{ kl }}"), "relu"));
        let again = repeat(1_000, |_| format!("distill {set}(full, other) -> third {{ kl }}"));
        quick(&with_blocks(&format!("network other = net\nnetwork third = net\n{again}"), "relu"));
    }
    let stages: Vec<String> = (0..60_000).map(|i| format!("s{i}")).collect();
    let nets = "subnet small = net";
    quick(&with_blocks(
        &format!("{nets}\ndistill full -> small {{ attention(at = [{}]) }}", stages.join(", ")),
        "relu",
    ));
    let parts = repeat(20_000, |i| format!("stage t{i} = relu"));
    quick(&with_blocks("", &format!("relu\n{parts}")));
    // Misspelt names that each have much to be compared with.
    let long = "n".repeat(200);
    let lets = repeat(2_000, |i| format!("let {long}{i} = 1"));
    let uses = repeat(200, |i| format!("let m{i} = {long}x{i}"));
    quick(&with_blocks(&format!("{lets}\n{uses}"), "relu"));
}

#[test]
fn warnings_are_bounded() {
    let blocks = repeat(8_000, |i| format!("block b{i} {{ in }}"));
    let lowered = try_lower(&with_blocks(&blocks, "relu"), Mode::Train, 2).expect("a legal spec");
    assert_eq!(lowered.warnings.len(), 100);
}
