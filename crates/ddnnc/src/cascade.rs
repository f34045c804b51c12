//! The nets of a cascade and when they answer, as the command line says them.

use crate::Failure;
use crate::cli::CascadeArgs;
use crate::training::net;
use ddnnc_ir::Model;
use ddnnc_train::Sure;

/// Refuses a net that is asked twice, which no spec is needed to see.
pub fn each_once(names: &[String]) -> Result<(), Failure> {
    match names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        Some((_, name)) => Err(Failure::input(format!("the cascade asks `{name}` twice"))),
        None => Ok(()),
    }
}

/// The nets of a cascade, two or more, each once; none where none is asked for.
pub fn cascaded<'m>(model: &'m Model, names: &[String]) -> Result<Vec<&'m str>, Failure> {
    each_once(names)?;
    let mut nets: Vec<&str> = Vec::with_capacity(names.len());
    for name in names {
        nets.push(net(model, Some(name))?.name.as_str());
    }
    match nets.as_slice() {
        [one] => Err(Failure::input(format!("a cascade of `{one}` alone"))
            .hint("name two nets or more, the cheapest first: `--cascade small,full`")),
        _ => Ok(nets),
    }
}

/// When a net answers, where that is given.
pub fn sure(args: &CascadeArgs) -> Option<Sure> {
    match (args.confidence, args.entropy) {
        (Some(least), _) => Some(Sure::Probability(least)),
        (None, Some(most)) => Some(Sure::Entropy(most)),
        (None, None) => None,
    }
}
