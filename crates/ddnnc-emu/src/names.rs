//! What names mean in a kernel: registers, variables and labels, in the scopes that `{ }` opens.

use crate::inst::{File, Reg, Space, Special};
use rustc_hash::FxHashMap;

/// A variable as operands refer to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// Its number, as [`crate::inst::Src::Variable`] counts.
    pub number: u32,
    /// Its state space.
    pub space: Space,
}

#[derive(Default)]
struct Scope<'a> {
    parent: Option<usize>,
    registers: FxHashMap<&'a str, Reg>,
    /// `%r<40>`: by prefix, the first register and how many.
    ranges: FxHashMap<&'a str, (Reg, u32)>,
    variables: FxHashMap<&'a str, Symbol>,
    labels: FxHashMap<&'a str, u32>,
    lists: FxHashMap<&'a str, Vec<&'a str>>,
}

/// The names of a kernel.
pub(crate) struct Names<'a> {
    scopes: Vec<Scope<'a>>,
    current: usize,
    counts: [u32; 5],
}

fn twice(name: &str) -> String {
    format!("`{name}` is declared twice in this scope")
}

impl<'a> Names<'a> {
    /// Names that see a module's variables.
    pub fn new(globals: &FxHashMap<&'a str, Symbol>) -> Names<'a> {
        let outer = Scope { variables: globals.clone(), ..Scope::default() };
        Names {
            scopes: vec![outer, Scope { parent: Some(0), ..Scope::default() }],
            current: 1,
            counts: [0; 5],
        }
    }

    /// Enters a scope.
    pub fn open(&mut self) {
        self.scopes.push(Scope { parent: Some(self.current), ..Scope::default() });
        self.current = self.scopes.len() - 1;
    }

    /// Leaves a scope; false where none but the kernel's own is open.
    pub fn close(&mut self) -> bool {
        match self.scopes[self.current].parent {
            Some(parent) if parent != 0 => {
                self.current = parent;
                true
            }
            _ => false,
        }
    }

    /// The scope that is open now, for [`Names::label`].
    pub fn scope(&self) -> usize {
        self.current
    }

    /// How many registers of each file there are.
    pub fn counts(&self) -> [u32; 5] {
        self.counts
    }

    fn new_registers(&mut self, file: File, count: u32) -> Result<Reg, String> {
        let index = self.counts[file as usize];
        let total = index.checked_add(count).filter(|&n| n <= 1 << 24).ok_or("too many registers")?;
        self.counts[file as usize] = total;
        Ok(Reg { file, index })
    }

    /// `.reg .b32 name;`
    pub fn declare_register(&mut self, name: &'a str, file: File) -> Result<(), String> {
        let reg = self.new_registers(file, 1)?;
        let scope = &mut self.scopes[self.current];
        if scope.registers.insert(name, reg).is_some() { Err(twice(name)) } else { Ok(()) }
    }

    /// `.reg .b32 prefix<count>;` declares `prefix0` to `prefix(count-1)`.
    pub fn declare_registers(&mut self, prefix: &'a str, count: u32, file: File) -> Result<(), String> {
        let reg = self.new_registers(file, count)?;
        let scope = &mut self.scopes[self.current];
        if scope.ranges.insert(prefix, (reg, count)).is_some() { Err(twice(prefix)) } else { Ok(()) }
    }

    /// A variable of the kernel.
    pub fn declare_variable(&mut self, name: &'a str, symbol: Symbol) -> Result<(), String> {
        let scope = &mut self.scopes[self.current];
        if scope.variables.insert(name, symbol).is_some() { Err(twice(name)) } else { Ok(()) }
    }

    /// A label before the instruction of that index.
    pub fn declare_label(&mut self, name: &'a str, index: u32) -> Result<(), String> {
        let scope = &mut self.scopes[self.current];
        if scope.labels.insert(name, index).is_some() { Err(twice(name)) } else { Ok(()) }
    }

    /// A `.branchtargets` list.
    pub fn declare_list(&mut self, name: &'a str, labels: Vec<&'a str>) -> Result<(), String> {
        let scope = &mut self.scopes[self.current];
        if scope.lists.insert(name, labels).is_some() { Err(twice(name)) } else { Ok(()) }
    }

    fn search<T>(&self, from: usize, find: impl Fn(&Scope<'a>) -> Option<T>) -> Option<T> {
        let mut at = Some(from);
        while let Some(scope) = at.map(|i| &self.scopes[i]) {
            if let Some(found) = find(scope) {
                return Some(found);
            }
            at = scope.parent;
        }
        None
    }

    /// The register of that name, as seen from the open scope.
    pub fn register(&self, name: &str) -> Option<Reg> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        // `%r01` is not `%r1`.
        let canonical = number == "0" || !number.starts_with('0');
        let number = number.parse::<u32>().ok().filter(|_| canonical);
        self.search(self.current, |scope| {
            scope.registers.get(name).copied().or_else(|| {
                let (first, count) = *scope.ranges.get(prefix)?;
                let number = number.filter(|&n| n < count)?;
                Some(Reg { file: first.file, index: first.index + number })
            })
        })
    }

    /// The variable of that name, as seen from the open scope.
    pub fn variable(&self, name: &str) -> Option<Symbol> {
        self.search(self.current, |scope| scope.variables.get(name).copied())
    }

    /// The instruction that a label stands before, as seen from a scope.
    pub fn label(&self, scope: usize, name: &str) -> Option<u32> {
        self.search(scope, |scope| scope.labels.get(name).copied())
    }

    /// A `.branchtargets` list, as seen from a scope.
    pub fn list(&self, scope: usize, name: &str) -> Option<Vec<&'a str>> {
        self.search(scope, |scope| scope.lists.get(name).cloned())
    }
}

/// The special register of that name, and its width in bits.
pub(crate) fn special(name: &str) -> Option<(Special, u32)> {
    let special = match name {
        "%tid.x" => Special::TidX,
        "%tid.y" => Special::TidY,
        "%tid.z" => Special::TidZ,
        "%ntid.x" => Special::NtidX,
        "%ntid.y" => Special::NtidY,
        "%ntid.z" => Special::NtidZ,
        "%ctaid.x" => Special::CtaidX,
        "%ctaid.y" => Special::CtaidY,
        "%ctaid.z" => Special::CtaidZ,
        "%nctaid.x" => Special::NctaidX,
        "%nctaid.y" => Special::NctaidY,
        "%nctaid.z" => Special::NctaidZ,
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => return Some((Special::GridId, 64)),
        "%lanemask_eq" => Special::LanemaskEq,
        "%lanemask_le" => Special::LanemaskLe,
        "%lanemask_lt" => Special::LanemaskLt,
        "%lanemask_ge" => Special::LanemaskGe,
        "%lanemask_gt" => Special::LanemaskGt,
        "%clock" => Special::Clock,
        "%clock64" => return Some((Special::Clock64, 64)),
        "%globaltimer" => return Some((Special::GlobalTimer, 64)),
        "%dynamic_smem_size" => Special::DynamicSharedSize,
        "%total_smem_size" => Special::TotalSharedSize,
        _ => return None,
    };
    Some((special, 32))
}
