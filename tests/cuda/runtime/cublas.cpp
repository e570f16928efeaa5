// cuBLAS and cuBLASLt: products are counted, and their operands looked at; none is computed.
//
// Their headers are not included (they need libcu++, which torch does not bring): a function here takes its arguments
// by a line that says what they are. Callers pass numbers and pointers, which arrive alike in a variadic function.
#include "fake.h"

#include <cstdarg>
#include <cstdlib>
#include <cstring>

using namespace fake;

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, EXECUTION_FAILED = 13 };

struct Handle {
    int device = 0;
    cudaStream_t stream = nullptr;
};

API int cublasCreate_v2(Handle** handle) {
    Call call;
    if (allowed_now("cublasCreate")) return NOT_INITIALIZED;  // it allocates
    *handle = new Handle{current_device, nullptr};
    return SUCCESS;
}

API int cublasDestroy_v2(Handle* handle) {
    delete handle;
    return SUCCESS;
}

API int cublasSetStream_v2(Handle* handle, cudaStream_t stream) { return handle->stream = stream, SUCCESS; }
API int cublasSetWorkspace_v2(Handle*, void*, size_t) { return SUCCESS; }
API int cublasSetMathMode(Handle*, int) { return SUCCESS; }
API int cublasGetMathMode(Handle*, int* mode) { return *mode = 0, SUCCESS; }
API int cublasSetPointerMode_v2(Handle*, int) { return SUCCESS; }
API int cublasGetPointerMode_v2(Handle*, int* mode) { return *mode = 0, SUCCESS; }
API int cublasSetSmCountTarget(Handle*, int) { return SUCCESS; }

// Count a product. Its arguments: `i` a number or setting, `l` a stride (64 bits), `p` a factor, which may lie
// anywhere, `D` an operand on the device.
static int product(const char* function, const char* arguments, Handle* handle, va_list list) {
    Call call;
    std::string name = std::string("product ") + function;
    int device = stream_of(handle->stream).device;
    if (handle->device != device)
        violate("wrong device: " + name + " with a handle of device " + std::to_string(handle->device) +
                " on a stream of device " + std::to_string(device));
    for (const char* one = arguments; *one; one++) switch (*one) {
            case 'i': va_arg(list, int); break;
            case 'l': va_arg(list, long long); break;
            case 'p': va_arg(list, void*); break;
            case 'D': check_pointer(va_arg(list, void*), device, name); break;
        }
    return enqueue(handle->stream, {name}) ? EXECUTION_FAILED : SUCCESS;
}

#define PRODUCT(function, arguments)                               \
    API int function(Handle* handle, ...) {                        \
        va_list list;                                              \
        va_start(list, handle);                                    \
        int status = product(#function, arguments, handle, list);  \
        va_end(list);                                              \
        return status;                                             \
    }

// (transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
PRODUCT(cublasSgemm_v2, "iiiiipDiDipDi")
PRODUCT(cublasDgemm_v2, "iiiiipDiDipDi")
// the same with a type after each operand, and the type and the algorithm of the computation
PRODUCT(cublasSgemmEx, "iiiiipDiiDiipDii")
PRODUCT(cublasGemmEx, "iiiiipDiiDiipDiiii")
// the same with a stride after each operand, and a count
PRODUCT(cublasSgemmStridedBatched, "iiiiipDilDilpDili")
PRODUCT(cublasDgemmStridedBatched, "iiiiipDilDilpDili")
PRODUCT(cublasGemmStridedBatchedEx, "iiiiipDiilDiilpDiiliii")
// the same with arrays of operands, and a count
PRODUCT(cublasSgemmBatched, "iiiiipDiDipDii")
PRODUCT(cublasDgemmBatched, "iiiiipDiDipDii")
// (trans, m, n, alpha, A, lda, x, incx, beta, y, incy)
PRODUCT(cublasSgemv_v2, "iiipDiDipDi")
PRODUCT(cublasDgemv_v2, "iiipDiDipDi")
// (n, x, incx, y, incy, result); with types
PRODUCT(cublasSdot_v2, "iDiDip")
PRODUCT(cublasDdot_v2, "iDiDip")
PRODUCT(cublasDotEx, "iDiiDiipii")
// (side, uplo, trans, diag, m, n, alpha, A, lda, B, ldb); with a count
PRODUCT(cublasStrsm_v2, "iiiiiipDiDi")
PRODUCT(cublasDtrsm_v2, "iiiiiipDiDi")
PRODUCT(cublasStrsmBatched, "iiiiiipDiDii")
PRODUCT(cublasDtrsmBatched, "iiiiiipDiDii")

// --- cuBLASLt: descriptors that nobody reads, one algorithm for each product ---

static int make(void** made) { return *made = calloc(1, 512), SUCCESS; }
static int unmake(void* made) { return free(made), SUCCESS; }

API int cublasLtMatmulDescCreate(void** made, int, int) { return make(made); }
API int cublasLtMatmulDescDestroy(void* made) { return unmake(made); }
API int cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }
API int cublasLtMatrixLayoutCreate(void** made, int, uint64_t, uint64_t, int64_t) { return make(made); }
API int cublasLtMatrixLayoutDestroy(void* made) { return unmake(made); }
API int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }
API int cublasLtMatmulPreferenceCreate(void** made) { return make(made); }
API int cublasLtMatmulPreferenceDestroy(void* made) { return unmake(made); }
API int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }

struct Heuristic {  // cublasLtMatmulHeuristicResult_t
    uint64_t algorithm[8];
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

API int cublasLtMatmulAlgoGetHeuristic(
    void*, void*, void*, void*, void*, void*, void*, int, Heuristic* results, int* count) {
    memset(results, 0, sizeof results[0]);
    return *count = 1, SUCCESS;
}

API int cublasLtMatmul(
    void*, void*, const void*, const void* a, void*, const void* b, void*, const void*, const void* c, void*, void* d,
    void*, const void*, void* workspace, size_t, cudaStream_t stream) {
    Call call;
    for (const void* operand : {a, b, c, (const void*)d, (const void*)workspace})
        check_pointer(operand, stream_of(stream).device, "product cublasLtMatmul");
    return enqueue(stream, {"product cublasLtMatmul"}) ? EXECUTION_FAILED : SUCCESS;
}
