//! What emission gives: kernels as text, with what is needed to launch them.

use ddnnc_ir::{DType, Local, ValueType};
use indexmap::IndexMap;
use std::fmt::Write as _;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

/// Why a launch cannot be emitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{launch}: {message}")]
pub struct EmitError {
    /// The launch's name and path.
    pub launch: String,
    /// What is not supported, and what would be.
    pub message: String,
}

/// Where a kernel's argument comes from. Operands and results are those of the launch, by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// Address of an operand.
    Operand(usize),
    /// Address of a result.
    Result(usize),
    /// Address in the launch's workspace: that many bytes from its start, a multiple of 256. Its content does not
    /// outlive the launch, and is undefined when it begins.
    Workspace(usize),
    /// Address of a counter of the launch (u32), by its number. Counters are 0 when a launch begins, and a launch
    /// leaves them so.
    Counter(usize),
    /// Address of the arena.
    Arena,
    /// Address of the persistent region.
    Persistent,
}

/// What a kernel costs, counted from its own loops and accesses, not from a model of the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations (a multiply-add is two) that the kernel executes on matrix units, padding included.
    pub matrix_flops: u64,
    /// Floating-point operations elsewhere.
    pub vector_flops: u64,
    /// Bytes read from global memory, each access that cannot be expected in cache counted (a value that blocks read
    /// again counts again where it is larger than a share of the L2 cache: see `docs/cuda.md`).
    pub bytes_read: u64,
    /// Bytes written to global memory.
    pub bytes_written: u64,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            matrix_flops: self.matrix_flops + other.matrix_flops,
            vector_flops: self.vector_flops + other.vector_flops,
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_written: self.bytes_written + other.bytes_written,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Cost::add)
    }
}

/// The cost of as many parts as that.
impl Mul<usize> for Cost {
    type Output = Cost;

    fn mul(self, parts: usize) -> Cost {
        let parts = parts as u64;
        Cost {
            matrix_flops: self.matrix_flops * parts,
            vector_flops: self.vector_flops * parts,
            bytes_read: self.bytes_read * parts,
            bytes_written: self.bytes_written * parts,
        }
    }
}

/// One kernel: a translation unit of its own with one `extern "C" __global__` function.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// The function's name: what kind of kernel it is. Kernels of equal text are one kernel, so it names no launch.
    pub name: String,
    /// CUDA C++, prelude included.
    pub source: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Its parameters in order; each a pointer. A device passes them as one run of 8-byte addresses, so that a kernel may
    /// also take them as one struct of pointers.
    pub arguments: Vec<Argument>,
    /// What it costs.
    pub cost: Cost,
    /// How the work was cut, for people: `tile 128x64x32, 3 stages, split-K 4`; may be empty.
    pub choice: String,
}

/// The kernels of one launch, run in order on one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LaunchCode {
    /// In order; one for nearly every launch.
    pub kernels: Vec<Kernel>,
    /// Bytes of workspace.
    pub workspace_bytes: usize,
    /// How many counters.
    pub counters: usize,
}

/// The C++ type of an element.
pub fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::Bf16 => "bf16",
        DType::I64 => "long long",
    }
}

/// The parameters of a kernel under construction, and the names that its text calls them by.
///
/// A kernel may do one thing for several parts (one per sub-net) whose memory differs. The text is written for the first
/// part and calls an operand `p3`; [`Arguments::select`] declares `p3` at the head of the kernel from the parameters of
/// all parts and a variable `part` (an int).
#[derive(Clone, Debug)]
pub struct Arguments {
    prefix: String,
    /// For each part, what the operands and results of the first part are there.
    parts: Vec<PartMap>,
    /// Name in the text → C++ type of the pointer, argument of each part.
    names: IndexMap<String, (String, Vec<Argument>)>,
}

/// A state of [`Arguments`] and its launch to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    names: usize,
    workspace_bytes: usize,
    counters: usize,
}

/// What a part has in place of the first part's operands and results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartMap {
    /// Operand of the first part → operand of this part; others are the same.
    pub operands: IndexMap<usize, usize>,
    /// Result of the first part → result of this part (numbers of the group's results).
    pub results: IndexMap<usize, usize>,
}

impl Arguments {
    /// For a kernel of one part; `prefix` begins every name, so that the arguments of unlike parts can stand in one
    /// kernel.
    pub fn new(prefix: &str) -> Arguments {
        Arguments::with_parts(prefix, vec![PartMap::default()])
    }

    /// For a kernel of several parts; the first map is empty.
    pub fn with_parts(prefix: &str, parts: Vec<PartMap>) -> Arguments {
        Arguments { prefix: prefix.to_owned(), parts, names: IndexMap::new() }
    }

    /// How many parts.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The name of an operand's pointer.
    pub fn operand(&mut self, i: usize, ty: &ValueType) -> String {
        let all = |map: &PartMap| Argument::Operand(map.operands.get(&i).copied().unwrap_or(i));
        let arguments = self.parts.iter().map(all).collect();
        self.add(format!("{}p{i}", self.prefix), format!("const {}*", c_type(ty.dtype)), arguments)
    }

    /// The name of a result's pointer.
    pub fn result(&mut self, i: usize, ty: &ValueType) -> String {
        let all = |map: &PartMap| Argument::Result(map.results.get(&i).copied().unwrap_or(i));
        let arguments = self.parts.iter().map(all).collect();
        self.add(format!("{}r{i}", self.prefix), format!("{}*", c_type(ty.dtype)), arguments)
    }

    /// Workspace of `bytes` for every part, as elements of `ctype`; adds to the launch's size.
    pub fn workspace(&mut self, code: &mut LaunchCode, ctype: &str, bytes: usize) -> String {
        let mut arguments = Vec::new();
        for _ in 0..self.parts.len() {
            arguments.push(Argument::Workspace(code.workspace_bytes));
            code.workspace_bytes += bytes.next_multiple_of(256);
        }
        let name = format!("{}w{}", self.prefix, self.names.len());
        self.add(name, format!("{ctype}*"), arguments)
    }

    /// `count` counters for every part.
    pub fn counters(&mut self, code: &mut LaunchCode, count: usize) -> String {
        let mut arguments = Vec::new();
        for _ in 0..self.parts.len() {
            arguments.push(Argument::Counter(code.counters));
            code.counters += count;
        }
        let name = format!("{}c{}", self.prefix, self.names.len());
        self.add(name, "uint*".to_owned(), arguments)
    }

    /// The arena or the persistent region, as bytes.
    pub fn region(&mut self, region: Argument) -> String {
        let name = if region == Argument::Arena { "arena" } else { "persistent" };
        self.add(name.to_owned(), "char*".to_owned(), vec![region; self.parts.len()])
    }

    /// A pointer to what each part has at a place of its own; `name` is without the prefix.
    pub fn placed(&mut self, name: &str, ctype: &str, arguments: Vec<Argument>) -> String {
        self.add(format!("{}{name}", self.prefix), ctype.to_owned(), arguments)
    }

    fn add(&mut self, name: String, ctype: String, arguments: Vec<Argument>) -> String {
        self.names.entry(name.clone()).or_insert((ctype, arguments));
        name
    }

    /// How far arguments, and the launch's workspace and counters, have come.
    pub fn mark(&self, code: &LaunchCode) -> Mark {
        Mark { names: self.names.len(), workspace_bytes: code.workspace_bytes, counters: code.counters }
    }

    /// Takes back what was asked for since a mark, in arguments and launch.
    pub fn rewind(&mut self, code: &mut LaunchCode, mark: &Mark) {
        self.names.truncate(mark.names);
        code.workspace_bytes = mark.workspace_bytes;
        code.counters = mark.counters;
    }

    /// The kernel's parameters as text and as arguments: for a name that is the same in all parts one parameter of that
    /// name, else one for each part.
    pub fn parameters(&self) -> (String, Vec<Argument>) {
        let (mut text, mut arguments) = (String::new(), Vec::new());
        for (name, (ctype, of_parts)) in &self.names {
            let same = of_parts.iter().all(|a| *a == of_parts[0]);
            let count = if same { 1 } else { of_parts.len() };
            for (part, argument) in of_parts.iter().enumerate().take(count) {
                let comma = if arguments.is_empty() { "" } else { ", " };
                let suffix = if same { String::new() } else { format!("_{part}") };
                let _ = write!(text, "{comma}{ctype} {name}{suffix}");
                arguments.push(*argument);
            }
        }
        (text, arguments)
    }

    /// Declarations at the head of the kernel that select the pointers of `part`.
    pub fn select(&self) -> String {
        let mut text = String::new();
        for (name, (ctype, of_parts)) in &self.names {
            if of_parts.iter().all(|a| *a == of_parts[0]) {
                continue;
            }
            let mut value = format!("{name}_{}", of_parts.len() - 1);
            for part in (0..of_parts.len() - 1).rev() {
                value = format!("part == {part} ? {name}_{part} : {value}");
            }
            let _ = writeln!(text, "    {ctype} {name} = {value};");
        }
        text
    }
}

/// The number of a group's operand, where the value is one.
pub fn operand_of(local: Local) -> Option<usize> {
    match local {
        Local::Operand(i) => Some(i as usize),
        Local::Step { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_after_a_mark_is_taken_back() {
        let ty = ValueType::f32([4]);
        let ask = |arguments: &mut Arguments, code: &mut LaunchCode, i: usize| {
            arguments.operand(i, &ty);
            arguments.workspace(code, "float", 8);
            arguments.counters(code, 3);
        };
        let (mut arguments, mut code) =
            (Arguments::with_parts("", vec![PartMap::default(); 2]), LaunchCode::default());
        ask(&mut arguments, &mut code, 0);
        let (parameters, before) = (arguments.parameters(), code.clone());
        let mark = arguments.mark(&code);
        ask(&mut arguments, &mut code, 1);
        assert!(arguments.parameters() != parameters && code != before);
        arguments.rewind(&mut code, &mark);
        assert!(arguments.parameters() == parameters && code == before);
    }
}
