//! Exported functions: modules and functions.
#![allow(non_snake_case)]

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::inst::Space;
use crate::parse::parse;

use super::code::{Answer, Code};
use super::ffi::{Host, Image, In, Out, Text, image, write_text};
use super::keep_text;
use super::state::{Driver, Function, Id, Module};
use super::{current, driver};

/// Static and dynamic shared memory that a launch may have without opting in.
pub(super) const SHARED: u32 = 48 << 10;

impl Driver {
    /// Loads PTX.
    ///
    /// # Errors
    ///
    /// The code, and a sentence for the log.
    fn load(&mut self, context: Id, text: &[u8]) -> Result<Id, (Code, String)> {
        let text = std::str::from_utf8(text)
            .map_err(|_| (Code::INVALID_IMAGE, "the image is neither PTX nor machine code".to_owned()))?;
        let module = parse(text).map_err(|e| (Code::INVALID_PTX, e.to_string()))?;
        let machine = self.machine(context).map_err(|code| (code, String::new()))?;
        if !module.runs_on(machine.properties().arch) {
            let message = format!("PTX for {} on sm_{}", module.target_name(), machine.properties().arch);
            return Err((Code::NO_BINARY_FOR_GPU, message));
        }
        let bytes: u64 = module.variables.iter().filter(|v| v.space != Space::Shared).map(|v| v.bytes).sum();
        let code = if bytes > machine.free_bytes() { Code::OUT_OF_MEMORY } else { Code::INVALID_PTX };
        let id = machine.load(module).map_err(|message| (code, message))?;
        let handle = self.id();
        self.modules.insert(handle, Module { context, id, functions: BTreeMap::new() });
        Ok(handle)
    }

    fn load_image(&mut self, context: Id, at: Host) -> Result<Id, (Code, String)> {
        match image(at.address()).map_err(|code| (code, "no image".to_owned()))? {
            Image::Text(text) => self.load(context, &text),
            Image::Binary => {
                let message = "machine code cannot be executed here: load PTX".to_owned();
                Err((Code::NO_BINARY_FOR_GPU, message))
            }
        }
    }

    fn loaded(&mut self, loaded: Result<Id, (Code, String)>) -> Answer<Id> {
        loaded.or_else(|(code, message)| {
            keep_text(&message);
            self.refuse(code, message)
        })
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadData(module: Out<Id>, image: Host) -> Code {
    current(|d, context| {
        let place = module.check()?;
        let loaded = d.load_image(context, image);
        place.set(d.loaded(loaded)?);
        Ok(())
    })
}

/// Of the options, the buffers for logs.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(
    module: Out<Id>,
    image: Host,
    count: u32,
    options: In<u32>,
    values: Out<usize>,
) -> Code {
    current(|d, context| {
        let place = module.check()?;
        if count > 0 && (options.is_null() || values.get().is_none()) {
            return Err(Code::INVALID_VALUE);
        }
        let value = |option: u32| {
            let position = (0..count as usize).find(|i| options.at(*i) == Ok(option))?;
            values.at(position).get().map(|value| (position, value))
        };
        let loaded = d.load_image(context, image);
        let message = loaded.as_ref().err().map_or("", |(_, message)| message);
        // Buffer and size of the log of information, then of errors.
        for (buffer, size, text) in [(3, 4, ""), (5, 6, message)] {
            if let (Some((_, buffer)), Some((at, room))) = (value(buffer), value(size)) {
                let written = write_text(buffer, room as u32 as usize, text);
                values.at(at).offer(written);
            }
        }
        place.set(d.loaded(loaded)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoad(module: Out<Id>, path: Text) -> Code {
    current(|d, context| {
        let place = module.check()?;
        let path = path.get()?;
        let Ok(text) = std::fs::read(&path) else {
            return d.refuse(Code::FILE_NOT_FOUND, format!("cannot read `{path}`"));
        };
        let loaded = if text.starts_with(b"\x7fELF") || text.starts_with(b"\x50\xed\x55\xba") {
            Err((Code::NO_BINARY_FOR_GPU, format!("`{path}` is machine code, which cannot be executed here")))
        } else {
            d.load(context, text.split(|b| *b == 0).next().unwrap_or_default())
        };
        place.set(d.loaded(loaded)?);
        Ok(())
    })
}

/// Does what is queued first, which may need the module.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Id) -> Code {
    driver(|d| {
        let context = d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?.context;
        d.context(context)?;
        d.finish_context(context)?;
        let Some(gone) = d.modules.remove(&module) else { return Err(Code::INVALID_HANDLE) };
        d.functions.retain(|_, f| f.module != module);
        d.machine(context)?.unload(gone.id);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(function: Out<Id>, module: Id, name: Text) -> Code {
    current(|d, _| {
        let place = function.check()?;
        let name = name.get()?;
        let found = d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if let Some(function) = found.functions.get(&name) {
            place.set(*function);
            return Ok(());
        }
        let (context, id) = (found.context, found.id);
        let machine = d.machine(context)?;
        let Some(kernel) = machine.module(id).kernels.iter().find(|k| k.name == name) else {
            return d.refuse(Code::NOT_FOUND, format!("the module has no kernel `{name}`"));
        };
        let params =
            layout(kernel.variables.iter().filter(|v| v.space == Space::Param).map(|v| (v.bytes, v.align)));
        let static_shared = machine.static_shared(id, &name).ok_or(Code::NOT_FOUND)?;
        let function = Function {
            context,
            module,
            id,
            name: Arc::from(name.as_str()),
            params,
            static_shared,
            dynamic_shared: None,
            carveout: -1,
        };
        let handle = d.id();
        d.functions.insert(handle, function);
        if let Some(module) = d.modules.get_mut(&module) {
            module.functions.insert(name, handle);
        }
        place.set(handle);
        Ok(())
    })
}

/// Offset and bytes of parameters that follow each other, each aligned.
fn layout(params: impl Iterator<Item = (u64, u64)>) -> Vec<(usize, usize)> {
    let mut end = 0;
    let place = |(bytes, align): (u64, u64)| {
        let at = u64::next_multiple_of(end, align.max(1));
        end = at + bytes;
        (at as usize, bytes as usize)
    };
    params.map(place).collect()
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunctionCount(count: Out<u32>, module: Id) -> Code {
    current(|d, _| {
        let place = count.check()?;
        let found = d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let (context, id) = (found.context, found.id);
        place.set(d.machine(context)?.module(id).kernels.len() as u32);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Id, name: Text) -> Code {
    current(|d, _| {
        let name = name.get()?;
        let found = d.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let (context, id) = (found.context, found.id);
        let Some((at, size)) = d.machine(context)?.variable(id, &name) else {
            return d.refuse(Code::NOT_FOUND, format!("the module has no variable `{name}`"));
        };
        address.offer(at);
        bytes.offer(size as usize);
        Ok(())
    })
}

/// Registers are counted by machine code, which there is none of: attribute 4 answers a number that occupancy by
/// registers never limits.
const REGISTERS: i32 = 32;

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Id) -> Code {
    current(|d, _| {
        let place = value.check()?;
        let f = d.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let (context, id, name) = (f.context, f.id, f.name.clone());
        let most_dynamic = f.dynamic_shared.unwrap_or(SHARED.saturating_sub(f.static_shared));
        let (static_shared, carveout) = (f.static_shared, f.carveout);
        let machine = d.machine(context)?;
        let kernel = machine.module(id).kernels.iter().find(|k| *k.name == *name).ok_or(Code::NOT_FOUND)?;
        let required = kernel.required_threads.map(|[x, y, z]| x * y * z);
        place.set(match attribute {
            0 => required.or(kernel.max_threads).unwrap_or(1024) as i32,
            1 => static_shared as i32,
            2 => 0,
            3 => machine.local_bytes(id, &name).unwrap_or(0) as i32,
            4 => REGISTERS,
            5 => machine.module(id).target as i32,
            6 => machine.properties().arch as i32,
            7 => 0,
            8 => most_dynamic as i32,
            9 => carveout,
            // Clusters, of which there are none.
            10..=15 => 0,
            _ => return Err(Code::INVALID_VALUE),
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Id, attribute: u32, value: i32) -> Code {
    current(|d, context| {
        let most = d.machine(context)?.properties().shared_per_block;
        let f = d.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        match attribute {
            8 => {
                let bytes = u32::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
                let most = most.saturating_sub(f.static_shared);
                if bytes > most {
                    let why = format!("{bytes} bytes of dynamic shared memory; `{}` can have {most}", f.name);
                    return d.refuse(Code::INVALID_VALUE, why);
                }
                f.dynamic_shared = Some(bytes);
                Ok(())
            }
            9 if (-1..=100).contains(&value) => {
                f.carveout = value;
                Ok(())
            }
            _ => Err(Code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Id, _config: u32) -> Code {
    current(|d, _| d.functions.get(&function).map(|_| ()).ok_or(Code::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetModule(module: Out<Id>, function: Id) -> Code {
    current(|d, _| {
        let f = d.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        module.check().map(|m| m.set(f.module))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamInfo(
    function: Id,
    index: usize,
    offset: Out<usize>,
    bytes: Out<usize>,
) -> Code {
    current(|d, _| {
        let f = d.functions.get(&function).ok_or(Code::INVALID_HANDLE)?;
        let (at, size) = *f.params.get(index).ok_or(Code::INVALID_VALUE)?;
        offset.check()?.set(at);
        bytes.offer(size);
        Ok(())
    })
}
