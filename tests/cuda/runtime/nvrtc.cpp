// NVRTC: torch compiles a few kernels from source as they are first called (jiterator: torch.special.entr and others).
// What is compiled here is nothing: the driver loads it as a module, asks it for a kernel by name, and counts its
// launches.
//
// A library of its own, libnvrtc.so.13: torch loads NVRTC by that name and takes its functions from there.
#include <cstring>
#include <nvrtc.h>
#include <set>
#include <string>

#define API extern "C"

struct _nvrtcProgram {
    std::set<std::string> names;
};

static const char CODE[] = "// compiled by fakecuda: never run";

API nvrtcResult nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 0, NVRTC_SUCCESS; }
API const char* nvrtcGetErrorString(nvrtcResult) { return "an error of fakecuda's NVRTC"; }

API nvrtcResult nvrtcCreateProgram(
    nvrtcProgram* program, const char*, const char*, int, const char* const*, const char* const*) {
    *program = new _nvrtcProgram;
    return NVRTC_SUCCESS;
}

API nvrtcResult nvrtcDestroyProgram(nvrtcProgram* program) {
    delete *program;
    *program = nullptr;
    return NVRTC_SUCCESS;
}

API nvrtcResult nvrtcAddNameExpression(nvrtcProgram program, const char* name) {
    program->names.insert(name);
    return NVRTC_SUCCESS;
}

API nvrtcResult nvrtcCompileProgram(nvrtcProgram, int, const char* const*) { return NVRTC_SUCCESS; }

API nvrtcResult nvrtcGetLoweredName(nvrtcProgram program, const char* name, const char** lowered) {
    return *lowered = program->names.insert(name).first->c_str(), NVRTC_SUCCESS;
}

API nvrtcResult nvrtcGetPTXSize(nvrtcProgram, size_t* size) { return *size = sizeof CODE, NVRTC_SUCCESS; }
API nvrtcResult nvrtcGetPTX(nvrtcProgram, char* code) { return memcpy(code, CODE, sizeof CODE), NVRTC_SUCCESS; }
API nvrtcResult nvrtcGetCUBINSize(nvrtcProgram, size_t* size) { return *size = sizeof CODE, NVRTC_SUCCESS; }
API nvrtcResult nvrtcGetCUBIN(nvrtcProgram, char* code) { return memcpy(code, CODE, sizeof CODE), NVRTC_SUCCESS; }
API nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram, size_t* size) { return *size = 1, NVRTC_SUCCESS; }
API nvrtcResult nvrtcGetProgramLog(nvrtcProgram, char* log) { return *log = 0, NVRTC_SUCCESS; }
