// Functions that are not stood in. Torch refers to them, and some must be there to be asked for; called, each is a
// violation and answers that it is not supported. No header is included: their arguments do not matter.
namespace fake {
int refuse(const char* function, int status);  // state.cpp
}

#define REFUSED(function, status) \
    extern "C" int function(...) { return fake::refuse(#function, status); }
#define OF_DRIVER(function) REFUSED(function, 801)
#define OF_CUBLAS(function) REFUSED(function, 15)
#define OF_NCCL(function) REFUSED(function, 5)
#define OF_CUDNN(function) REFUSED(function, 3000)

// memory by parts (expandable segments), memory between processes, multicast, streams that watch memory
OF_DRIVER(cuMemAddressReserve) OF_DRIVER(cuMemAddressFree) OF_DRIVER(cuMemCreate) OF_DRIVER(cuMemRelease)
OF_DRIVER(cuMemMap) OF_DRIVER(cuMemUnmap) OF_DRIVER(cuMemSetAccess) OF_DRIVER(cuMemGetAllocationGranularity)
OF_DRIVER(cuMemExportToShareableHandle) OF_DRIVER(cuMemImportFromShareableHandle) OF_DRIVER(cuMemRetainAllocationHandle)
OF_DRIVER(cuMemGetAllocationPropertiesFromHandle) OF_DRIVER(cuMemGetAddressRange_v2) OF_DRIVER(cuMemsetD32Async)
OF_DRIVER(cuMulticastCreate) OF_DRIVER(cuMulticastAddDevice) OF_DRIVER(cuMulticastBindMem) OF_DRIVER(cuMulticastUnbind)
OF_DRIVER(cuStreamWriteValue32_v2) OF_DRIVER(cuStreamWaitValue32_v2) OF_DRIVER(cuPointerSetAttribute)
// contexts of one's own, parts of a device
OF_DRIVER(cuCtxCreate_v4) OF_DRIVER(cuCtxPushCurrent_v2) OF_DRIVER(cuCtxPopCurrent_v2) OF_DRIVER(cuGreenCtxCreate)
OF_DRIVER(cuGreenCtxDestroy) OF_DRIVER(cuGreenCtxStreamCreate) OF_DRIVER(cuCtxFromGreenCtx)
OF_DRIVER(cuDevResourceGenerateDesc) OF_DRIVER(cuDevSmResourceSplitByCount) OF_DRIVER(cuDeviceGetDevResource)
// linking, kernels of several kinds
OF_DRIVER(cuLinkCreate_v2) OF_DRIVER(cuLinkAddData_v2) OF_DRIVER(cuLinkComplete) OF_DRIVER(cuLinkDestroy)
OF_DRIVER(cuModuleGetGlobal_v2) OF_DRIVER(cuTensorMapEncodeIm2col)

// parts of graphs made by hand, libraries of kernels
OF_DRIVER(cudaGraphAddNode) OF_DRIVER(cudaGraphConditionalHandleCreate) OF_DRIVER(cudaGraphDebugDotPrint)
OF_DRIVER(cudaLibraryLoadData) OF_DRIVER(cudaLibraryGetKernel) OF_DRIVER(cudaLibraryUnload)
// memory and events between processes
OF_DRIVER(cudaIpcGetMemHandle) OF_DRIVER(cudaIpcOpenMemHandle) OF_DRIVER(cudaIpcCloseMemHandle)
OF_DRIVER(cudaIpcGetEventHandle) OF_DRIVER(cudaIpcOpenEventHandle)

// NVML, so that nobody asks a real one, which would count real devices. `nvmlInit` is left out on purpose: without it
// torch asks the runtime how many there are.
OF_DRIVER(nvmlInit_v2) OF_DRIVER(nvmlSystemGetCudaDriverVersion_v2) OF_DRIVER(nvmlDeviceGetHandleByPciBusId_v2)
OF_DRIVER(nvmlDeviceGetComputeRunningProcesses) OF_DRIVER(nvmlDeviceGetGpuFabricInfoV)
OF_DRIVER(nvmlDeviceGetNvLinkRemoteDeviceType) OF_DRIVER(nvmlDeviceGetNvLinkRemotePciInfo_v2)

// factorisations and solutions
OF_CUBLAS(cublasSgetrfBatched) OF_CUBLAS(cublasDgetrfBatched) OF_CUBLAS(cublasSgetrsBatched)
OF_CUBLAS(cublasDgetrsBatched) OF_CUBLAS(cublasSgeqrfBatched) OF_CUBLAS(cublasDgeqrfBatched)
OF_CUBLAS(cublasSgelsBatched) OF_CUBLAS(cublasDgelsBatched) OF_CUBLAS(cublasLtMatmulAlgoInit)
OF_CUBLAS(cublasLtMatmulAlgoCheck) OF_CUBLAS(cublasLtMatmulAlgoConfigGetAttribute)
OF_CUBLAS(cublasLtMatmulAlgoConfigSetAttribute)

// from one rank to another, parts of a group, memory of NCCL's
OF_NCCL(ncclSend) OF_NCCL(ncclRecv) OF_NCCL(ncclReduceScatter) OF_NCCL(ncclAlltoAll) OF_NCCL(ncclGather)
OF_NCCL(ncclCommInitAll) OF_NCCL(ncclCommSplit) OF_NCCL(ncclCommShrink) OF_NCCL(ncclCommGrow) OF_NCCL(ncclCommRevoke)
OF_NCCL(ncclCommSuspend) OF_NCCL(ncclCommResume) OF_NCCL(ncclCommWindowRegister) OF_NCCL(ncclCommWindowDeregister)
OF_NCCL(ncclMemAlloc) OF_NCCL(ncclMemFree) OF_NCCL(ncclRedOpCreatePreMulSum) OF_NCCL(ncclRedOpDestroy)
OF_NCCL(ncclGroupSimulateEnd)

// convolutions in the old way, pooling, normalisation of batches, recurrent nets
OF_CUDNN(cudnnConvolutionForward) OF_CUDNN(cudnnConvolutionBackwardData) OF_CUDNN(cudnnConvolutionBackwardFilter)
OF_CUDNN(cudnnConvolutionBiasActivationForward) OF_CUDNN(cudnnPoolingForward) OF_CUDNN(cudnnRNNForward)
OF_CUDNN(cudnnBatchNormalizationForwardTrainingEx) OF_CUDNN(cudnnBatchNormalizationForwardInference)
OF_CUDNN(cudnnBatchNormalizationBackwardEx) OF_CUDNN(cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize)
