// The emulated kernels behind a C interface. Compiled together with every kernel source.
#include "cuda.h"

extern "C" {

// Runs a kernel; 0, or: 1 unknown name, 2 parameter block of another size, 3 launch beyond the limits of the device.
int emulator_launch(const char* name, const unsigned* grid, unsigned threads, unsigned shared_bytes,
                    const void* params, size_t params_bytes, int order) {
  const emulator::Kernel* kernel = emulator::kernels;
  while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
  if (!kernel) return 1;
  if (kernel->params_bytes != params_bytes) return 2;
  bool grid_fits = grid[0] > 0 && grid[1] > 0 && grid[2] > 0 && grid[1] <= 65535 && grid[2] <= 65535;
  if (!grid_fits || threads == 0 || threads > emulator::MAX_THREADS || shared_bytes > 163 * 1024) return 3;
  emulator::launch(kernel->name, kernel->call, params, dim3(grid[0], grid[1], grid[2]), dim3(threads), shared_bytes,
                   static_cast<emulator::Order>(order));
  return 0;
}

// Device memory is the heap, so that a sanitizer sees an access outside an allocation. It starts as NaN.
void* emulator_alloc(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, bytes) != 0) return nullptr;
  memset(memory, 0xff, bytes);
  return memory;
}

void emulator_free(void* memory) { free(memory); }
}
