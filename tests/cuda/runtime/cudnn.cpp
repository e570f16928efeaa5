// cuDNN: convolutions, which torch runs through the backend interface: descriptors that hold attributes.
//
// An operation, a graph of operations, a heuristic that offers engines, a plan: each is a descriptor here, that keeps what
// it is given. The heuristic offers one engine, without notes and workspace. To execute a plan is to count one product.
#include "fake.h"

#include <cstring>
#include <cudnn.h>
#include <cudnn_graph.h>

using namespace fake;

struct cudnnContext {
    int device = 0;
    cudaStream_t stream = nullptr;
};

API cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
    Call call;
    if (allowed_now("cudnnCreate")) return CUDNN_STATUS_NOT_INITIALIZED;  // it allocates
    *handle = new cudnnContext{current_device, nullptr};
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    return handle->stream = stream, CUDNN_STATUS_SUCCESS;
}
API cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
    return *stream = handle->stream, CUDNN_STATUS_SUCCESS;
}

struct Attribute {
    int64_t count = 0;
    std::vector<char> bytes;

    template <class T>
    const T* values() const {
        return (const T*)bytes.data();
    }
};

struct Descriptor {
    cudnnBackendDescriptorType_t type;
    std::map<int, Attribute> attributes;

    // The descriptor that an attribute names first; nullptr without it.
    const Descriptor* operator[](cudnnBackendAttributeName_t name) const {
        auto found = attributes.find(name);
        return found == attributes.end() ? nullptr : *found->second.values<const Descriptor*>();
    }
};

API cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* made) {
    *made = new Descriptor{type, {}};
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    delete (Descriptor*)descriptor;
    return CUDNN_STATUS_SUCCESS;
}

API cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t) { return CUDNN_STATUS_SUCCESS; }

static size_t size_of(cudnnBackendAttributeType_t type) {
    switch (type) {
        case CUDNN_TYPE_BOOLEAN:
        case CUDNN_TYPE_CHAR: return 1;
        case CUDNN_TYPE_HANDLE:
        case CUDNN_TYPE_VOID_PTR:
        case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        case CUDNN_TYPE_INT64:
        case CUDNN_TYPE_FRACTION:
        case CUDNN_TYPE_DOUBLE: return 8;
        default: return 4;  // int32, float and the enumerations
    }
}

API cudnnStatus_t cudnnBackendSetAttribute(
    cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
    int64_t count, const void* values) {
    Attribute& attribute = ((Descriptor*)descriptor)->attributes[name];
    attribute.count = count;
    attribute.bytes.assign((const char*)values, (const char*)values + count * size_of(type));
    return CUDNN_STATUS_SUCCESS;
}

// What the heuristic and its engine say; all else is what the descriptor was given.
API cudnnStatus_t cudnnBackendGetAttribute(
    cudnnBackendDescriptor_t handle, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
    int64_t room, int64_t* count, void* values) {
    auto descriptor = (Descriptor*)handle;
    int64_t ignored;
    if (count == nullptr) count = &ignored;
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {  // one; the caller has made the descriptor to be filled
        *count = 1;
        if (room == 0 || values == nullptr) return CUDNN_STATUS_SUCCESS;
        auto configuration = *(Descriptor**)values;
        auto engine = new Descriptor{CUDNN_BACKEND_ENGINE_DESCRIPTOR, {}};  // for ever: torch keeps plans for ever, too
        engine->attributes[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] =
            descriptor->attributes[CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH];
        Attribute& attribute = configuration->attributes[CUDNN_ATTR_ENGINECFG_ENGINE];
        attribute.count = 1;
        attribute.bytes.assign((char*)&engine, (char*)&engine + sizeof engine);
        return CUDNN_STATUS_SUCCESS;
    }
    auto found = descriptor->attributes.find(name);
    if (found == descriptor->attributes.end()) {
        bool number = type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_INT32;  // a workspace of 0 bytes, engine 0
        *count = number ? 1 : 0;
        if (number && values && room > 0) memset(values, 0, size_of(type));
        return CUDNN_STATUS_SUCCESS;
    }
    *count = found->second.count;
    if (values == nullptr || room == 0) return CUDNN_STATUS_SUCCESS;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {  // CUDA fills a descriptor of the caller's
        **(Descriptor**)values = **found->second.values<Descriptor*>();
        return CUDNN_STATUS_SUCCESS;
    }
    memcpy(values, found->second.bytes.data(), std::min(room, *count) * size_of(type));
    return CUDNN_STATUS_SUCCESS;
}

static const char* name_of(const Descriptor* operation) {
    switch (operation ? operation->type : CUDNN_BACKEND_ENGINE_DESCRIPTOR) {
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: return "product cudnn convolution";
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR: return "product cudnn convolution, of its input";
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
            return "product cudnn convolution, of its weights";
        default: return "product cudnn";
    }
}

API cudnnStatus_t cudnnBackendExecute(
    cudnnHandle_t handle, cudnnBackendDescriptor_t plan_handle, cudnnBackendDescriptor_t pack_handle) {
    Call call;
    auto plan = (const Descriptor*)plan_handle, pack = (const Descriptor*)pack_handle;
    auto configuration = (*plan)[CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG];
    auto engine = configuration ? (*configuration)[CUDNN_ATTR_ENGINECFG_ENGINE] : nullptr;
    auto graph = engine ? (*engine)[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] : nullptr;
    std::string name = name_of(graph ? (*graph)[CUDNN_ATTR_OPERATIONGRAPH_OPS] : nullptr);
    int device = stream_of(handle->stream).device;
    if (handle->device != device)
        violate("wrong device: " + name + " with a handle of device " + std::to_string(handle->device));
    const Attribute& operands = pack->attributes.at(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    for (int64_t i = 0; i < operands.count; i++) check_pointer(operands.values<void*>()[i], device, name);
    return enqueue(handle->stream, {name}) ? CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS;
}
