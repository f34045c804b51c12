//! Every exported function by name, for programs that ask for them with `cuGetProcAddress`.

use std::ffi::c_void;

macro_rules! functions {
    ($($module:ident: $($name:ident)*;)*) => {
        /// The names, without order.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($(stringify!($name),)*)*];

        fn exactly(name: &str) -> Option<*const c_void> {
            match name {
                $($(stringify!($name) => Some(super::$module::$name as *const c_void),)*)*
                _ => None,
            }
        }
    };
}

functions! {
    api_context:
        cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxReset_v2
        cuDevicePrimaryCtxGetState cuDevicePrimaryCtxSetFlags_v2 cuCtxCreate_v2 cuCtxCreate_v3
        cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxSetCurrent cuCtxGetCurrent cuCtxPushCurrent_v2
        cuCtxPopCurrent_v2 cuCtxGetDevice cuCtxSynchronize cuCtxGetFlags cuCtxSetFlags cuCtxGetApiVersion
        cuCtxSetLimit cuCtxGetLimit cuCtxGetCacheConfig cuCtxSetCacheConfig cuCtxGetStreamPriorityRange;
    api_device:
        cuInit cuDriverGetVersion cuDeviceGet cuDeviceGetCount cuDeviceGetName cuDeviceGetUuid_v2
        cuDeviceGetUuid cuDeviceTotalMem_v2 cuDeviceGetAttribute cuDeviceComputeCapability
        cuDeviceGetPCIBusId cuDeviceCanAccessPeer cuGetErrorName cuGetErrorString cuGetProcAddress_v2
        cuGetProcAddress cuGetExportTable cuProfilerStart cuProfilerStop;
    api_event:
        cuEventCreate cuEventDestroy_v2 cuEventRecord cuEventRecordWithFlags cuEventQuery
        cuEventSynchronize cuEventElapsedTime_v2 cuEventElapsedTime;
    api_graph:
        cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamIsCapturing cuStreamGetCaptureInfo_v2
        cuStreamGetCaptureInfo_v3 cuThreadExchangeStreamCaptureMode cuGraphInstantiateWithFlags
        cuGraphLaunch cuGraphUpload cuGraphExecDestroy cuGraphDestroy cuGraphGetNodes;
    api_launch:
        cuLaunchKernel cuLaunchCooperativeKernel cuLaunchKernelEx
        cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
        cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxPotentialBlockSize
        cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyMaxActiveClusters
        cuOccupancyMaxPotentialClusterSize;
    api_memory:
        cuMemGetInfo_v2 cuMemAlloc_v2 cuMemFree_v2 cuMemAllocAsync cuMemAllocFromPoolAsync cuMemFreeAsync
        cuMemGetAddressRange_v2 cuMemHostAlloc cuMemAllocHost_v2 cuMemFreeHost cuMemHostRegister_v2
        cuMemHostUnregister cuMemHostGetFlags cuMemHostGetDevicePointer_v2 cuMemAllocManaged
        cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuMemcpy cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2
        cuMemcpyDtoDAsync_v2 cuMemcpyAsync cuMemcpyPeerAsync cuMemsetD8_v2 cuMemsetD16_v2 cuMemsetD32_v2
        cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async;
    api_module:
        cuModuleLoadData cuModuleLoadDataEx cuModuleLoad cuModuleUnload cuModuleGetFunction
        cuModuleGetFunctionCount cuModuleGetGlobal_v2 cuFuncGetAttribute cuFuncSetAttribute
        cuFuncSetCacheConfig cuFuncGetModule cuFuncGetParamInfo;
    api_own:
        ddnnc_emu_last_fault ddnnc_emu_report;
    api_pool:
        cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool cuMemPoolCreate cuMemPoolDestroy
        cuMemPoolTrimTo cuMemPoolSetAttribute cuMemPoolGetAttribute cuPointerGetAttribute
        cuMemPrefetchAsync_v2 cuMemAdvise_v2 cuImportExternalMemory
        cuExternalMemoryGetMappedBuffer cuDestroyExternalMemory;
    api_stream:
        cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamSynchronize cuStreamQuery
        cuStreamWaitEvent cuStreamGetFlags cuStreamGetPriority cuStreamGetId cuStreamGetCtx
        cuStreamAttachMemAsync cuLaunchHostFunc;
}

/// Names in `cuda.h` are macros for the newest version of a function.
const VERSIONS: [&str; 4] = ["_v4", "_v3", "_v2", ""];

/// The newest version of a function.
pub(super) fn find(name: &str) -> Option<*const c_void> {
    VERSIONS.iter().find_map(|version| exactly(&format!("{name}{version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is exported and what is listed are the same.
    #[test]
    fn every_exported_function_is_listed() {
        let mut exported = Vec::new();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/driver");
        for entry in std::fs::read_dir(folder).expect("the sources") {
            let text = std::fs::read_to_string(entry.expect("a file").path()).expect("a text");
            let functions = text.split("#[unsafe(no_mangle)]\npub extern \"C\" fn ").skip(1);
            exported.extend(functions.filter_map(|f| Some(f.split_once('(')?.0.to_owned())));
        }
        let mut listed: Vec<String> = NAMES.iter().map(|n| n.to_string()).collect();
        exported.sort();
        listed.sort();
        assert_eq!(exported, listed);
        assert!(listed.len() > 100, "{}", listed.len());
        assert_eq!(find("cuMemAlloc"), exactly("cuMemAlloc_v2"));
        assert!(find("cuLaunchKernel").is_some() && find("cuMemAlloc_v3").is_none());
    }
}
