//! PTX text to decoded instructions: modules, kernels and their declarations. [`crate::body`] reads what stands between
//! the braces of a kernel.

use crate::body;
use crate::declaration::{parameter, variables};
use crate::inst::{Kernel, Module, Op, Space};
use crate::lexer::{Kind, Token, tokens};
use crate::names::{Names, Symbol};
use crate::number;
use crate::source::{self, SourceFile};
use rustc_hash::FxHashMap;

/// Text that is not PTX, or PTX that the emulator does not execute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {message}\n    {text}")]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What is wrong, and what would be understood.
    pub message: String,
    /// The line.
    pub text: String,
}

/// A line and what is wrong there; [`parse`] adds the text of the line.
pub(crate) type Wrong = (u32, String);

/// Parses and decodes a module.
///
/// # Errors
///
/// Every opcode and every modifier that [`crate::inst`] cannot say is refused with its line.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let read = |text| {
        let tokens = tokens(text)?;
        let last = tokens.last().map_or(1, |t| t.line);
        let mut module = module(&mut Parser { tokens, at: 0, last, files: Vec::new() })?;
        source::add_texts(text, &mut module.files);
        Ok(module)
    };
    read(text).map_err(|(line, message): Wrong| {
        let shown = text.lines().nth(line as usize - 1).unwrap_or_default();
        ParseError { line, message, text: shown.trim().to_owned() }
    })
}

/// A place in the tokens of a text.
pub(crate) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    last: u32,
    /// What every `.file` so far has said; it may stand between instructions too.
    files: Vec<SourceFile>,
}

impl<'a> Parser<'a> {
    pub fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    /// The line of the next token; the last line at the end.
    pub fn line(&self) -> u32 {
        self.peek().map_or(self.last, |t| t.line)
    }

    pub fn wrong<T>(&self, message: impl Into<String>) -> Result<T, Wrong> {
        Err((self.line(), message.into()))
    }

    pub fn unexpected<T>(&self, wanted: &str) -> Result<T, Wrong> {
        match self.peek() {
            Some(token) => self.wrong(format!("expected {wanted}, found `{}`", token.text)),
            None => self.wrong(format!("expected {wanted}, found the end of the text")),
        }
    }

    /// Takes a mark or word where it comes next.
    pub fn take(&mut self, text: &str) -> bool {
        let found = self.peek().is_some_and(|t| t.text == text && t.kind != Kind::Text);
        self.at += usize::from(found);
        found
    }

    /// Takes a mark that must come next.
    pub fn expect(&mut self, mark: &str) -> Result<(), Wrong> {
        if self.take(mark) { Ok(()) } else { self.unexpected(&format!("`{mark}`")) }
    }

    /// Takes a word that must come next; `wanted` says what it is.
    pub fn word(&mut self, wanted: &str) -> Result<&'a str, Wrong> {
        match self.peek() {
            Some(Token { kind: Kind::Word, text, .. }) => {
                self.at += 1;
                Ok(text)
            }
            _ => self.unexpected(wanted),
        }
    }

    /// Takes a number that must come next.
    pub fn number(&mut self, wanted: &str) -> Result<u64, Wrong> {
        let line = self.line();
        let word = self.word(wanted)?;
        match number::integer(word).map(u64::try_from) {
            Some(Ok(number)) => Ok(number),
            _ => Err((line, format!("expected {wanted}, found `{word}`"))),
        }
    }

    /// As [`Parser::number`], of 32 bits.
    pub fn number32(&mut self, wanted: &str) -> Result<u32, Wrong> {
        let line = self.line();
        u32::try_from(self.number(wanted)?).map_err(|_| (line, format!("{wanted} has more than 32 bits")))
    }

    /// Takes the next token, whatever it is.
    pub fn skip(&mut self) {
        self.at += 1;
    }

    /// Takes what follows `.file`.
    pub fn file(&mut self) -> Result<(), Wrong> {
        let line = self.line();
        let new = source::file(self)?;
        match self.files.iter().find(|file| file.number == new.number) {
            Some(file) if *file != new => Err((line, format!("file {} is declared twice", new.number))),
            Some(_) => Ok(()),
            None => {
                self.files.push(new);
                Ok(())
            }
        }
    }

    /// Takes `.pragma "text";`, after its first word.
    pub fn pragma(&mut self) -> Result<(), Wrong> {
        while self.peek().is_some_and(|t| t.kind == Kind::Text || t.text == ",") {
            self.at += 1;
        }
        self.expect(";")
    }
}

fn module<'a>(p: &mut Parser<'a>) -> Result<Module, Wrong> {
    let mut module = Module {
        target: 0,
        exact_target: false,
        variables: Vec::new(),
        kernels: Vec::new(),
        files: Vec::new(),
    };
    let mut globals = FxHashMap::default();
    while let Some(token) = p.peek() {
        match token.text {
            ".version" => {
                p.at += 1;
                p.word("the version of the PTX ISA")?;
            }
            ".target" => {
                p.at += 1;
                (module.target, module.exact_target) = target(p)?;
            }
            ".address_size" => {
                p.at += 1;
                let line = p.line();
                if p.number("the size of addresses")? != 64 {
                    return Err((line, "only addresses of 64 bits are executed".to_owned()));
                }
            }
            ".file" => {
                p.at += 1;
                p.file()?;
            }
            // Outside a kernel it is about no instruction.
            ".loc" => {
                p.at += 1;
                source::loc(p, 0)?;
            }
            ".pragma" => {
                p.at += 1;
                p.pragma()?;
            }
            ".section" => section(p)?,
            // An empty statement.
            ";" => p.at += 1,
            _ => declaration(p, &mut module, &mut globals)?,
        }
    }
    module.files = std::mem::take(&mut p.files);
    Ok(module)
}

/// `sm_90a, texmode_independent`: 90, and that it is for exactly that.
fn target(p: &mut Parser) -> Result<(u32, bool), Wrong> {
    let line = p.line();
    let name = p.word("a target such as sm_90")?;
    let digits = name.strip_prefix("sm_").unwrap_or_default().trim_end_matches(['a', 'f']);
    let Ok(target) = digits.parse() else {
        return Err((line, format!("expected a target such as sm_90, found `{name}`")));
    };
    while p.take(",") {
        p.word("a target")?;
    }
    Ok((target, name.ends_with('a')))
}

/// Refuses what a kernel's target does not have.
fn check_target(kernel: &Kernel, module: &Module) -> Result<(), Wrong> {
    let target = module.target_name();
    for inst in &kernel.code {
        match inst.op {
            Op::Wgmma(_) | Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } if target != "sm_90a" => {
                return Err((
                    inst.line,
                    format!("`wgmma` exists on the target sm_90a only, not on {target}"),
                ));
            }
            Op::ProxyFence if module.target < 90 => {
                return Err((
                    inst.line,
                    format!("`fence.proxy.async` exists from sm_90 on, not on {target}"),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// `.section .debug_info { … }` is skipped.
fn section(p: &mut Parser) -> Result<(), Wrong> {
    p.at += 1;
    p.word("the name of a section")?;
    p.expect("{")?;
    let mut depth = 1;
    while depth > 0 {
        match p.peek() {
            Some(t) if t.text == "{" => depth += 1,
            Some(t) if t.text == "}" => depth -= 1,
            Some(_) => {}
            None => return p.unexpected("`}`"),
        }
        p.at += 1;
    }
    Ok(())
}

fn declaration<'a>(
    p: &mut Parser<'a>,
    module: &mut Module,
    globals: &mut FxHashMap<&'a str, Symbol>,
) -> Result<(), Wrong> {
    let mut external = false;
    loop {
        let (line, word) = (p.line(), p.word("a directive")?);
        match word {
            ".visible" | ".weak" | ".common" => {}
            ".extern" => external = true,
            ".entry" => {
                let kernel = kernel(p, module.variables.len() as u32, globals)?;
                if module.kernels.iter().any(|other| other.name == kernel.name) {
                    return Err((line, format!("kernel `{}` is declared twice", kernel.name)));
                }
                check_target(&kernel, module)?;
                module.kernels.push(kernel);
                return Ok(());
            }
            ".func" => return Err((line, function(p, external))),
            ".global" | ".const" | ".shared" => {
                let space = space(word);
                if external && space != Space::Shared {
                    return Err((line, "variables of other modules are not linked".to_owned()));
                }
                for (name, variable) in variables(p, space, external)? {
                    let symbol = Symbol { number: module.variables.len() as u32, space };
                    if globals.insert(name, symbol).is_some() {
                        return Err((line, format!("`{name}` is declared twice in this scope")));
                    }
                    module.variables.push(variable);
                }
                return Ok(());
            }
            _ => return Err((line, format!("directive `{word}` is not executed"))),
        }
    }
}

fn space(directive: &str) -> Space {
    match directive {
        ".global" => Space::Global,
        ".const" => Space::Const,
        ".local" => Space::Local,
        _ => Space::Shared,
    }
}

/// Why a `.func` is refused, with its name; `external` where its body is elsewhere.
fn function(p: &mut Parser, external: bool) -> String {
    // What it returns stands in parentheses before its name.
    if p.take("(") {
        while p.peek().is_some() && !p.take(")") {
            p.at += 1;
        }
    }
    let name = p.word("").unwrap_or("?");
    match name {
        "vprintf" => "`printf` is not executed in kernels; leave it out".to_owned(),
        "__assertfail" => "`assert` is not executed in kernels; compile with `-DNDEBUG`".to_owned(),
        "malloc" | "free" => format!("`{name}` is not executed in kernels; pass memory to the kernel"),
        _ if external => format!("device function `{name}` is of another module, and modules are not linked"),
        _ => format!("device function `{name}` is not executed; make it `__forceinline__`"),
    }
}

fn kernel<'a>(p: &mut Parser<'a>, first: u32, globals: &FxHashMap<&'a str, Symbol>) -> Result<Kernel, Wrong> {
    let name = p.word("the name of a kernel")?.to_owned();
    let mut names = Names::new(globals);
    let mut kernel = Kernel {
        name,
        variables: Vec::new(),
        registers: [0; 5],
        code: Vec::new(),
        locs: Vec::new(),
        max_threads: None,
        required_threads: None,
    };
    if p.take("(") && !p.take(")") {
        loop {
            let line = p.line();
            p.expect(".param")?;
            for (name, variable) in parameter(p)? {
                let symbol = Symbol { number: first + kernel.variables.len() as u32, space: Space::Param };
                names.declare_variable(name, symbol).map_err(|message| (line, message))?;
                kernel.variables.push(variable);
            }
            if !p.take(",") {
                break;
            }
        }
        p.expect(")")?;
    }
    while !p.take("{") {
        let (line, word) = (p.line(), p.word("`{`")?);
        match word {
            ".maxntid" | ".reqntid" => {
                let mut sizes = [1; 3];
                sizes[0] = p.number32("a number of threads")?;
                for size in &mut sizes[1..] {
                    if p.take(",") {
                        *size = p.number32("a number of threads")?;
                    }
                }
                kernel.max_threads = Some(sizes.iter().fold(1, |n: u32, size| n.saturating_mul(*size)));
                if word == ".reqntid" {
                    kernel.required_threads = Some(sizes);
                }
            }
            // What the driver's compiler may assume; registers of a device are not counted here.
            ".minnctapersm" | ".maxnctapersm" | ".maxnreg" => {
                p.number("a number")?;
            }
            ".pragma" => p.pragma()?,
            ".noreturn" => {}
            _ => return Err((line, format!("directive `{word}` of a kernel is not executed"))),
        }
    }
    body::read(p, &mut kernel, first, &mut names)?;
    Ok(kernel)
}
