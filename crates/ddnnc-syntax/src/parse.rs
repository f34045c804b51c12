//! The parser's entry.

use crate::ast::SpecFile;
use crate::errors;
use crate::grammar::{Grammar, Rule};
use crate::recover;
use crate::scan::{Scan, scan};
use crate::tree::Tree;
use ddnnc_diag::{Diagnostic, SourceId};
use pest::Parser;
use std::num::NonZeroUsize;

/// Work that the generated parser may do on one text; far above what any text within the size limit needs.
const CALL_LIMIT: usize = 200_000_000;

/// Parses a spec file.
///
/// # Errors
///
/// The syntax errors of the file, at most twenty, in the order of the text. It takes any text: what is over 1 MiB or
/// nested deeper than 64 is refused before it is parsed.
pub fn parse(text: &str, source: SourceId) -> Result<SpecFile, Vec<Diagnostic>> {
    let mut scan = scan(text, source).map_err(|error| vec![error])?;
    pest::set_call_limit(NonZeroUsize::new(CALL_LIMIT));
    if !scan.errors.is_empty() {
        return Err(recover::diagnose(&scan, None));
    }
    let file = match Grammar::parse(Rule::file, text) {
        Ok(mut pairs) => {
            pairs.next().and_then(|file| build(&scan, file)).ok_or_else(|| vec![errors::internal(&scan)])?
        }
        Err(error) => return Err(recover::diagnose(&scan, Some(error))),
    };
    let mut file = file?;
    file.comments = std::mem::take(&mut scan.comments);
    Ok(file)
}

type Built = Result<SpecFile, Vec<Diagnostic>>;

/// The tree of a whole file, without its comments.
fn build(scan: &Scan<'_>, file: pest::iterators::Pair<'_, Rule>) -> Option<Built> {
    let tree = Tree::new(scan, 0);
    let mut parts = file.into_inner();
    let model = tree.ident(&tree.parts(parts.next()?).next()?);
    let mut items = Vec::new();
    for part in parts {
        if part.as_rule() != Rule::EOI {
            items.push(tree.item(part)?);
        }
    }
    let errors = tree.into_errors();
    if errors.is_empty() {
        let span = scan.span(0, scan.text.len());
        Some(Ok(SpecFile { model, items, comments: Vec::new(), span }))
    } else {
        Some(Err(errors))
    }
}
