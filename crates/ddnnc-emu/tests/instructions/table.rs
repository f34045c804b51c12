//! The tables of `docs/emulator-instructions.md` against the decoder.

use ddnnc_emu::{instructions, modifiers_without_effect};
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../../docs/emulator-instructions.md");

/// The rows of the page, each as its cells.
fn rows(page: &str) -> Vec<(&str, &str)> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'))
        .filter_map(|row| row.split_once(" | "))
        .filter(|(first, _)| first.starts_with('`'))
        .collect()
}

#[test]
fn the_page_lists_every_opcode() {
    let (opcodes, _) = PAGE.split_once("## Modifiers without effect").expect("the section");
    let listed: BTreeSet<&str> = rows(opcodes).iter().map(|(first, _)| first.trim_matches('`')).collect();
    let names = instructions();
    let executed: BTreeSet<&str> = names.iter().filter_map(|name| name.split('.').next()).collect();
    assert_eq!(listed, executed);
}

#[test]
fn the_page_lists_every_modifier_without_effect() {
    let (_, modifiers) = PAGE.split_once("## Modifiers without effect").expect("the section");
    let words = |cell: &'static str| {
        cell.split('`').filter(|w| !w.trim().is_empty()).map(|w| w.trim_start_matches('.'))
    };
    let listed: BTreeSet<(&str, &str)> = rows(modifiers)
        .iter()
        .flat_map(|&(opcodes, modifiers)| {
            words(opcodes).flat_map(move |o| words(modifiers).map(move |m| (o, m)))
        })
        .collect();
    assert_eq!(listed, modifiers_without_effect().into_iter().collect());
}
