//! Kernels' code on the device.

use crate::driver::{Context, Function, check, words};
use cudarc::driver::{result, sys};
use ddnnc_passes::DeviceError;
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

/// Why a module was not loaded.
pub enum Refused {
    /// The driver has no use for this machine code or PTX.
    Image(String),
    /// Something else.
    Failed(DeviceError),
}

/// Loaded code.
#[derive(Debug)]
pub struct Module {
    module: sys::CUmodule,
    context: Arc<Context>,
}

// SAFETY: the driver's objects may be used from every thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Room for what the driver's compiler says of PTX that it refuses.
const LOG_BYTES: usize = 8192;

impl Module {
    /// Loads machine code or PTX text.
    pub fn new(context: &Arc<Context>, image: &[u8]) -> Result<Module, Refused> {
        use sys::CUresult as Code;
        context.bind().map_err(Refused::Failed)?;
        // PTX ends with a null; machine code does not mind one.
        let image: Vec<u8> = image.iter().copied().chain([0]).collect();
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // The driver takes every option's value as a pointer, numbers too.
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), LOG_BYTES as *mut c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: an image that ends with a null, and as many values as options; the log outlives the call.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        match loaded {
            Code::CUDA_SUCCESS => Ok(Module { module, context: Arc::clone(context) }),
            Code::CUDA_ERROR_NO_BINARY_FOR_GPU
            | Code::CUDA_ERROR_INVALID_IMAGE
            | Code::CUDA_ERROR_INVALID_PTX
            | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | Code::CUDA_ERROR_INVALID_SOURCE => {
                let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
                let words = words(result::DriverError(loaded));
                let said = said.trim();
                Err(Refused::Image(if said.is_empty() { words } else { format!("{words}\n{said}") }))
            }
            other => Err(Refused::Failed(
                check::<()>("loading a kernel", Err(result::DriverError(other)))
                    .err()
                    .unwrap_or_else(|| DeviceError::Failed("loading a kernel".to_owned())),
            )),
        }
    }

    /// A kernel of it, allowed to use that many bytes of dynamic shared memory.
    pub fn function(&self, name: &str, dynamic_shared: u32) -> Result<Function, DeviceError> {
        self.context.bind()?;
        let failed = |e: std::ffi::NulError| DeviceError::Failed(format!("kernel `{name}`: {e}"));
        let text = CString::new(name).map_err(failed)?;
        // SAFETY: the module is loaded.
        let found = unsafe { result::module::get_function(self.module, text) };
        let function = check(&format!("looking for kernel `{name}`"), found)?;
        // 48 KiB, less what the kernel has of static shared memory, unless the driver is asked for more. Launches share
        // kernels, so that what one of them has asked for stays.
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let doing = || format!("{dynamic_shared} bytes of shared memory for kernel `{name}`");
        // SAFETY: a kernel of a loaded module.
        let allowed = unsafe { result::function::get_function_attribute(function, attribute) };
        if check(&doing(), allowed)? < dynamic_shared as i32 {
            // SAFETY: as above.
            let set = unsafe {
                result::function::set_function_attribute(function, attribute, dynamic_shared as i32)
            };
            check(&doing(), set)?;
        }
        // Asking anything of a kernel loads it. Else the driver would load it at its first launch, which is in a
        // capture, where what loading may need (waiting for the context) is not allowed.
        let registers = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NUM_REGS;
        // SAFETY: as above.
        let asked = unsafe { result::function::get_function_attribute(function, registers) };
        check(&format!("loading kernel `{name}`"), asked)?;
        Ok(Function(function))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: loaded once, unloaded once; who launched its kernels has waited for them.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}
