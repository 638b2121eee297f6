// A stand-in for libcuda.so.1 over the emulator: as much of the driver's interface as kernels/src/cuda/driver.rs calls, with
// the checks that a device makes. Streams carry out their work at once; a graph is the list of its launches.
//
// Signatures and numbers are those of the CUDA Driver API.
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda.h"

namespace {

enum Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  CAPTURE_UNSUPPORTED = 900,
};

const size_t TOTAL_MEMORY = size_t{256} << 20;
const unsigned SHARED_DEFAULT = 48 * 1024, SHARED_OPT_IN = 227 * 1024;
const uint32_t FATBIN_MAGIC = 0xba55ed50;

struct Function {
  const emulator::Kernel* kernel;
  unsigned max_shared = SHARED_DEFAULT;
};
struct Call {
  const emulator::Kernel* kernel;
  dim3 grid, block;
  unsigned shared;
  std::vector<unsigned char> params;
  void run() const {
    emulator::launch(kernel->name, kernel->call, params.data(), grid, block, shared, emulator::Order::Forward);
  }
};
struct Graph {
  std::vector<Call> calls;
};
struct Stream {
  std::unique_ptr<Graph> capture;
};

std::mutex lock;
std::map<uintptr_t, size_t> allocations;
std::vector<std::unique_ptr<Function>> functions;
size_t allocated = 0;
char context;
thread_local void* current = nullptr;

bool within(unsigned long long address, size_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) return false;
  auto [start, size] = *--next;
  return address + bytes <= start + size;
}

// What is asked of a stream outside a capture, on a thread with a context.
int ready(void* stream) {
  if (current != &context) return INVALID_CONTEXT;
  if (!stream) return INVALID_VALUE;
  return static_cast<Stream*>(stream)->capture ? CAPTURE_UNSUPPORTED : SUCCESS;
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
int cuGetErrorName(int, const char** text) { return *text = "STAND_IN_ERROR", SUCCESS; }
int cuGetErrorString(int, const char** text) { return *text = "the stand-in refused the call", SUCCESS; }

int cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int* device, int index) { return *device = index, index == 0 ? SUCCESS : INVALID_VALUE; }
int cuDeviceGetName(char* name, int size, int) { return snprintf(name, size, "stand-in"), SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 75: *value = 9; break;              // compute capability, major
    case 76: *value = 0; break;              // minor
    case 97: *value = SHARED_OPT_IN; break;  // most shared memory of a block that opts in
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** out, int) { return *out = &context, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void* to) { return current = to, SUCCESS; }
int cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &context, SUCCESS; }
int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  std::lock_guard<std::mutex> guard(lock);
  return *free = TOTAL_MEMORY - allocated, *total = TOTAL_MEMORY, current == &context ? SUCCESS : INVALID_CONTEXT;
}

int cuStreamCreate(void** stream, unsigned) {
  if (current != &context) return INVALID_CONTEXT;
  return *stream = new Stream, SUCCESS;
}
int cuStreamDestroy_v2(void* stream) { return delete static_cast<Stream*>(stream), SUCCESS; }
int cuStreamSynchronize(void* stream) { return ready(stream); }

int cuMemAllocHost_v2(void** memory, size_t bytes) { return *memory = malloc(bytes), SUCCESS; }
int cuMemFreeHost(void* memory) { return free(memory), SUCCESS; }
int cuMemAllocAsync(unsigned long long* address, size_t bytes, void* stream) {
  if (int refused = ready(stream)) return refused;
  std::lock_guard<std::mutex> guard(lock);
  void* memory = nullptr;
  if (bytes == 0 || bytes > TOTAL_MEMORY - allocated || posix_memalign(&memory, 256, bytes) != 0) return OUT_OF_MEMORY;
  // As on a device, nobody can count on zeros; these bytes are NaN in every float type.
  memset(memory, 0xff, bytes);
  allocated += bytes;
  allocations[*address = reinterpret_cast<uintptr_t>(memory)] = bytes;
  return SUCCESS;
}
int cuMemFreeAsync(unsigned long long address, void* stream) {
  if (int refused = ready(stream)) return refused;
  std::lock_guard<std::mutex> guard(lock);
  auto found = allocations.find(address);
  if (found == allocations.end()) return INVALID_VALUE;
  allocated -= found->second;
  allocations.erase(found);
  free(reinterpret_cast<void*>(address));
  return SUCCESS;
}
int cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void* stream) {
  if (int refused = ready(stream)) return refused;
  if (!within(to, bytes)) return INVALID_VALUE;
  return memset(reinterpret_cast<void*>(to), value, bytes), SUCCESS;
}
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t bytes, void* stream) {
  if (int refused = ready(stream)) return refused;
  if (!within(to, bytes)) return INVALID_VALUE;
  return memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, void* stream) {
  if (int refused = ready(stream)) return refused;
  if (!within(from, bytes)) return INVALID_VALUE;
  return memcpy(to, reinterpret_cast<void*>(from), bytes), SUCCESS;
}

int cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void* stream) {
  if (int refused = ready(stream)) return refused;
  if (!within(to, bytes) || !within(from, bytes)) return INVALID_VALUE;
  return memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), SUCCESS;
}

// The code in an image cannot run here: every module has all emulated kernels.
int cuModuleLoadData(void** module, const void* image) {
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  if (magic != FATBIN_MAGIC) return INVALID_IMAGE;
  std::lock_guard<std::mutex> guard(lock);
  if (functions.empty())
    for (auto* kernel = emulator::kernels; kernel; kernel = kernel->next)
      functions.push_back(std::make_unique<Function>(Function{kernel}));
  return *module = &functions, SUCCESS;
}
int cuModuleUnload(void*) { return SUCCESS; }
int cuModuleGetFunctionCount(unsigned* count, void*) {
  return *count = static_cast<unsigned>(functions.size()), SUCCESS;
}
int cuModuleEnumerateFunctions(void** out, unsigned count, void*) {
  for (unsigned i = 0; i < count && i < functions.size(); i++) out[i] = functions[i].get();
  return SUCCESS;
}
int cuFuncLoad(void*) { return SUCCESS; }
int cuFuncGetName(const char** name, void* function) {
  return *name = static_cast<Function*>(function)->kernel->name, SUCCESS;
}
int cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* bytes) {
  *offset = 0;
  *bytes = static_cast<Function*>(function)->kernel->params_bytes;
  return index == 0 ? SUCCESS : INVALID_VALUE;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  // 8: most dynamic shared memory.
  if (attribute != 8 || value < 0 || value > static_cast<int>(SHARED_OPT_IN)) return INVALID_VALUE;
  static_cast<Function*>(function)->max_shared = static_cast<unsigned>(value);
  return SUCCESS;
}

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y, unsigned z,
                   unsigned shared, void* stream, void** params, void** extra) {
  if (current != &context) return INVALID_CONTEXT;
  auto* found = static_cast<Function*>(function);
  bool grid_fits = grid_x > 0 && grid_x <= 0x7fffffff && grid_y > 0 && grid_y <= 65535 && grid_z > 0 && grid_z <= 65535;
  bool block_fits = x > 0 && y == 1 && z == 1 && x <= static_cast<unsigned>(emulator::MAX_THREADS);
  if (!stream || extra || !grid_fits || !block_fits || shared > found->max_shared) return INVALID_VALUE;
  auto* bytes = static_cast<const unsigned char*>(params[0]);
  Call call{found->kernel, dim3(grid_x, grid_y, grid_z), dim3(x), shared,
            std::vector<unsigned char>(bytes, bytes + found->kernel->params_bytes)};
  if (Graph* capture = static_cast<Stream*>(stream)->capture.get()) {
    capture->calls.push_back(std::move(call));
  } else {
    call.run();
  }
  return SUCCESS;
}

int cuStreamBeginCapture_v2(void* stream, int) {
  if (int refused = ready(stream)) return refused;
  return static_cast<Stream*>(stream)->capture = std::make_unique<Graph>(), SUCCESS;
}
int cuStreamEndCapture(void* stream, void** graph) {
  auto& capture = static_cast<Stream*>(stream)->capture;
  if (!capture) return INVALID_VALUE;
  return *graph = capture.release(), SUCCESS;
}
int cuGraphInstantiateWithFlags(void** out, void* graph, unsigned long long) {
  return *out = new Graph(*static_cast<Graph*>(graph)), SUCCESS;
}
int cuGraphUpload(void*, void* stream) { return ready(stream); }
int cuGraphLaunch(void* graph, void* stream) {
  if (int refused = ready(stream)) return refused;
  for (const Call& call : static_cast<Graph*>(graph)->calls) call.run();
  return SUCCESS;
}
int cuGraphExecDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }
int cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }

}  // extern "C"
