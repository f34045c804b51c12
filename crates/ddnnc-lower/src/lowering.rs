//! The whole of it: from a file to a model, or to all that is wrong with the file.

use crate::diags::Diags;
use crate::emit::Emitter;
use crate::eval::Evaluator;
use crate::names::Names;
use crate::naming::name_weights;
use crate::sharing::check_shared_shapes;
use crate::{check, limits};
use ddnnc_diag::{Code, Diagnostic};
use ddnnc_ir::{Graph, Mode, Model};
use ddnnc_syntax::SpecFile;
use indexmap::IndexMap;

/// What to lower for.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Batch norms and dropouts as in training, or as in evaluation.
    pub mode: Mode,
    /// N of the graph; the batch of the spec's `train` where it is not given.
    pub batch: Option<usize>,
    /// Whose losses, frozen parts and recipe: the place of a phase among those of the spec; 0 where it declares none.
    pub phase: usize,
}

/// A model, and what is legal in its spec and probably not meant.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The model.
    pub model: Model,
    /// The warnings, in the order of their places.
    pub warnings: Vec<Diagnostic>,
}

/// Lowers a spec.
///
/// Shapes are checked for the batch of `options`, names and pairings in all phases. All errors are returned at once, in the order of their places.
pub fn lower(file: &SpecFile, options: &Options) -> Result<Lowered, Vec<Diagnostic>> {
    // Expressions nest as deep as the tree does: a thread of our own makes the stack large enough for the limit.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(limits::STACK);
        match thread.spawn_scoped(scope, || lower_here(file, options)) {
            Ok(handle) => match handle.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            },
            Err(error) => {
                let message = format!("no memory to compile in: {error}");
                Err(vec![Diagnostic::error(Code::TooLarge, message).at(file.model.span, "")])
            }
        }
    })
}

fn lower_here(file: &SpecFile, options: &Options) -> Result<Lowered, Vec<Diagnostic>> {
    let mut diags = Diags::default();
    let names = Names::collect(file, &mut diags);
    let safe = check::check(&names, &mut diags);
    let mut evaluator = Evaluator::new(&names, diags);
    evaluator.exhausted = !safe;
    let input = evaluator.input_shape();
    let classes = evaluator.target_classes();
    evaluator.top_level();
    let shares = evaluator.shares();
    let nets = evaluator.nets(input.as_ref(), classes);
    let named = name_weights(&nets, &shares);
    let recipe = evaluator.recipe(input.as_ref(), classes);
    let phases = evaluator.phases(&nets, &named, recipe.as_ref());
    let mut diags = evaluator.diags;
    let nothing = phases.iter().all(|phase| phase.terms.is_empty());
    if nothing && names.phases.is_empty() && !names.nets.is_empty() && !diags.has_errors() {
        diags.push(
            Diagnostic::error(Code::Missing, "nothing is trained: no term of the loss has a weight")
                .at(file.model.span, "")
                .hint(
                    "a trained network has a cross-entropy of its own; `supervise` and `distill` add terms",
                ),
        );
    }
    let parts = (input, classes, recipe, names.input, names.target);
    let (Some(shape), Some(classes), Some(recipe), Some(image), Some(label)) = parts else {
        return Err(errors(file, diags));
    };
    let batch = options.batch.unwrap_or(recipe.batch);
    if batch == 0 || batch > limits::BATCH as usize {
        diags.push(
            Diagnostic::error(Code::OutOfRange, format!("the batch is {batch}"))
                .at(file.model.span, format!("it must be from 1 to {}", limits::BATCH)),
        );
    }
    let Some(phase) = phases.get(options.phase) else {
        if !diags.has_errors() {
            let message = format!("there is no phase {}", options.phase);
            diags.push(Diagnostic::error(Code::UnknownName, message).at(file.model.span, "counted from 0"));
        }
        return Err(diags.finish().0);
    };
    if diags.has_errors() {
        return Err(diags.finish().0);
    }
    let declared = phases
        .iter()
        .filter_map(|phase| Some(ddnnc_ir::Phase { name: phase.name?.name.clone(), epochs: phase.epochs? }));
    let mut model = Model {
        name: file.model.name.clone(),
        mode: options.mode,
        batch,
        input: (image.name.name.clone(), shape),
        target: (label.name.name.clone(), classes),
        graph: Graph::new(file.model.name.clone()),
        parameters: IndexMap::new(),
        states: IndexMap::new(),
        nets: Vec::new(),
        terms: Vec::new(),
        pairings: Vec::new(),
        recipe: phase.recipe(recipe),
        phases: declared.collect(),
        phase: options.phase,
    };
    if nets.nets.len() < names.nets.len() {
        return Err(errors(file, diags));
    }
    check_shared_shapes(&names, &nets, &named, &mut diags);
    if diags.has_errors() {
        return Err(diags.finish().0);
    }
    Emitter::new(&mut model, &mut diags).emit(&nets, &named, &phases);
    if diags.has_errors() {
        return Err(diags.finish().0);
    }
    Ok(Lowered { model, warnings: diags.finish().1 })
}

/// The errors; never none, so that no spec is refused in silence.
fn errors(file: &SpecFile, diags: Diags) -> Vec<Diagnostic> {
    let errors = diags.finish().0;
    if errors.is_empty() {
        let error = Diagnostic::error(Code::Missing, "the model is incomplete");
        return vec![error.at(file.model.span, "this is a mistake of the compiler's; the spec may be sound")];
    }
    errors
}
