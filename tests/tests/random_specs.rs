//! Random specs: what they reach, and a few of them on every device of the CPU.

use ddnnc_diag::SourceId;
use ddnnc_ir::Mode;
use ddnnc_tests::comparison::Comparison;
use ddnnc_tests::harness::try_model_in;
use ddnnc_tests::random_spec::random_spec;
use ddnnc_tests::vocabulary::{everything, uses};
use std::collections::BTreeSet;

#[test]
fn specs_are_legal_and_together_use_the_whole_language() {
    // Of `norm = private` the setting, whatever it is set to.
    fn key(word: &str) -> &str {
        word.split_once(" = ").map_or(word, |(key, _)| key)
    }
    let everything = everything();
    let demanded: BTreeSet<&str> = everything.iter().map(|word| key(word)).collect();
    let mut unused = everything.clone();
    for seed in 0..300 {
        let spec = random_spec(seed);
        let mut phases = 1;
        for phase in 0..100 {
            if phase == phases {
                break;
            }
            // Names are resolved in every phase by any; graphs are made of one.
            match try_model_in(&spec.text, Mode::Train, None, phase) {
                Ok(model) => phases = model.phases.len().max(1),
                Err(diagnostics) => panic!("seed {seed} draws what is refused:\n{diagnostics}"),
            }
        }
        let file = ddnnc_syntax::parse(&spec.text, SourceId::default()).expect("it was lowered");
        let used: BTreeSet<String> = uses(&file).into_keys().collect();
        let unknown: Vec<&String> = used.iter().filter(|word| !demanded.contains(key(word))).collect();
        assert!(unknown.is_empty(), "seed {seed} uses {unknown:?}, which nobody demands");
        unused.retain(|word| !used.contains(word));
    }
    assert!(unused.is_empty(), "no spec uses {unused:?}");
}

#[test]
fn a_seed_draws_one_spec() {
    for seed in [0, 17, 1 << 40] {
        assert_eq!(random_spec(seed).text, random_spec(seed).text);
    }
    assert_ne!(random_spec(0).text, random_spec(1).text);
}

#[test]
fn a_few_specs_do_on_the_cpu_what_the_reference_does() {
    let comparison = Comparison::on_cpu();
    for seed in 0..8 {
        let verdict = comparison.check(&random_spec(seed).text, seed);
        let findings: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "seed {seed}:\n{}", findings.join("\n"));
    }
}
